"""What the documents say is so: links, files, commands, examples, names and shapes."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import aime
from aime.commands import COMMANDS
from aime.commands.flags import flags_of, parse
from aime.config import ModelConfig, ModelSettings, TrainConfig
from aime.data.collect import CollectConfig
from aime.errors import AimeError
from aime.evaluation.report import Evaluation
from aime.evaluation.scores import DIFFERENCES, METRICS, PREDICTORS
from aime.inputs import check_clip
from aime.presets import preset_config
from aime.reach import objective_reach
from aime.studies.ablation import VARIANTS
from aime.studies.benchmark import MINUTES
from aime.studies.recipe import RECIPE
from aime.training import Trainer, save_checkpoint
from aime.training.config_file import differences
from aime.training.config_file import settings as flat_settings
from aime.training.update import OBJECTIVES
from tests.helpers import small_model
from tests.training.conftest import small_settings, write_store

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "VRNN/README.md", *sorted((ROOT / "docs").glob("*.md"))]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def doc(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its fenced code."""
    return re.sub(r"```.*?```", "", text, flags=re.S)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert found, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = {i - 1 for i, row in enumerate(cells) if set("".join(row)) <= set("-: ")}
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pages
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in slugs(there), f"{page.name} links to {target}, but no heading there is called so"


@pages
def test_every_python_file_that_is_mentioned_exists(page: Path):
    for name in re.findall(r"(?:[\w.-]+/)+[\w-]+\.py\b", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file() or (page.parent / name).is_file(), f"{page.name} mentions {name}"


@pages
def test_what_is_said_to_be_in_a_file_is_there(page: Path):
    """In "`file.py`: `a`, `B.c`" and in "`a` in `file.py`"."""
    text = page.read_text(encoding="utf-8")
    claims = re.findall(r"`((?:[\w.-]+/)+[\w-]+\.py)`:\s+((?:`[\w.]+`(?:,\s+)?)+)", text)
    claims += [(path, f"`{name}`") for name, path in re.findall(r"`([\w.]+)`\s+in\s+`((?:[\w.-]+/)+[\w-]+\.py)`", text)]
    for path, names in claims:
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in quoted(names):
            for part in name.split("."):
                assert re.search(rf"^\s*(def|class) {part}\b|^{part}\b.* = ", source, re.M), f"{name} is not in {path}"


def test_classes_live_where_navigation_says():
    table = section(doc("docs/navigation.md"), "Where each class lives")
    assert len(rows(table)) > 20
    for names, path in rows(table):
        source = doc(path.strip("`"))
        for name in quoted(names):
            assert re.search(rf"^class {name}\b", source, re.M), f"{name} is not in {path}"


# ---------------------------------------------------------------------- commands


class _Parsed(Exception):
    """A command line was understood."""


def commands() -> list[str]:
    lines = [
        line
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"), "bash")
        for line in block.splitlines()
    ]
    lines += re.findall(r"`torchrun [^`]*-m (aime [^`]+)`", doc("README.md"))
    return sorted({line.strip() for line in lines if line.strip().startswith("aime ")})


@pytest.mark.parametrize("line", commands())
def test_every_command_line_parses(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """By the command's own parser, up to where it would begin to work."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def policy(time_step, rng): return rng.uniform(-1, 1, 6)\n")
    _, command, *argv = shlex.split(line, comments=True)
    module = importlib.import_module(COMMANDS[command].module)

    def only_parse(*args: Any, **kwargs: Any) -> Any:
        parse(*args, **kwargs)
        raise _Parsed

    monkeypatch.setattr(module, "parse", only_parse)
    with pytest.raises(_Parsed):
        module.run(argv)


@pages
def test_every_flag_and_target_that_is_mentioned_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    kinds = [("train", "TrainFlags"), ("collect", "CollectConfig"), ("evaluate", "EvaluateFlags")]
    kinds += [
        ("imagine", "ImagineFlags"),
        ("inspect", "InspectFlags"),
        ("benchmark", "BenchmarkConfig"),
        ("ablate", "AblationConfig"),
        ("bench", "BenchConfig"),
        ("data", "ImportFlags"),
        ("data", "ExportFlags"),
    ]
    known = {"--debug", "--help", "--version", "--nproc-per-node", "--measure", "--model"}
    for command, name in kinds:
        known |= set(flags_of(getattr(importlib.import_module(COMMANDS[command].module), name)))
    known |= {"--no-" + flag[2:] for flag in known}
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        assert flag in known, f"{page.name} mentions {flag}"
    for command in re.findall(r"`aime ([a-z]+)", text):
        assert command in COMMANDS, f"{page.name} mentions aime {command}"
    targets = re.findall(r"`make ([a-z]+)", text)
    targets += re.findall(r"^make ([a-z]+)", "\n".join(blocks(text, "bash")), re.M)
    for target in targets:
        assert re.search(rf"^{target}:", doc("Makefile"), re.M), f"{page.name} mentions make {target}"


# ---------------------------------------------------------------------- examples


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_the_examples_in_python_run(
    page: str,
    humanoid_store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/humanoid-walk").symlink_to(humanoid_store_path)
    model = aime.WorldModel(preset_config("tiny").model.for_actions(21))
    save_checkpoint(tmp_path / "runs/humanoid-walk/checkpoints/step-00000001", model)
    examples = blocks(doc(page), "python")
    assert examples
    for example in examples:
        names: dict[str, Any] = {}
        exec(example, names)
        if page == "README.md":
            assert names["dream"].observations.shape == (1, 16, 3, 64, 64)
            assert "[1, 16, 3, 64, 64]" in capsys.readouterr().out


@pages
def test_examples_import_what_exists(page: Path):
    for example in blocks(page.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom):
                for name in node.names:
                    assert hasattr(importlib.import_module(node.module or ""), name.name)


# ---------------------------------------------------------------------- names and shapes


def documented_metrics() -> set[str]:
    names: set[str] = set()
    for cells in rows(section(doc("docs/troubleshooting.md"), "What metrics.jsonl holds")):
        for name in quoted("".join(cells)):
            pairs = [(a, b) for i, a in enumerate(OBJECTIVES) for b in OBJECTIVES[i + 1 :]] if "cosine" in name else []
            if pairs:
                names |= {name.replace("<objective>", "{}").format(a, b) for a, b in pairs}
            else:
                names |= {name.replace("<objective>", objective) for objective in OBJECTIVES}
    return names


def test_the_metrics_are_those_that_troubleshooting_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A small run logs just the names in the table, but that of a GPU.

    Every name elsewhere on the page is one of them or a setting.
    """
    store = write_store(tmp_path / "ball")
    monkeypatch.setattr(Trainer, "draw", lambda self: [])
    config = small_settings(tmp_path / "run", store, max_steps=5, log_every=1, eval_every=5)
    trainer = Trainer(config)
    trainer.run()
    trainer.close()
    lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = {name for line in lines for name in json.loads(line)} | {"gpu_memory_mib"}
    assert documented_metrics() == logged

    known = logged | set(flat_settings(TrainConfig())) | {"gradient"}
    for name in quoted(prose(doc("docs/troubleshooting.md"))):
        if re.fullmatch(r"[a-z]+(?:[_/][a-z_]+)+", name):
            assert name in known, f"troubleshooting.md mentions {name}"


def documented_shapes(heading: str) -> dict[str, tuple[int, ...] | None]:
    """Field to shape in a table of tensor-shapes.md; None where the field is not a tensor."""
    found = {}
    for field, shape, *_ in rows(section(doc("docs/tensor-shapes.md"), heading)):
        sizes = re.fullmatch(r"\(([\dK, ]+)\)", shape)
        found[field.strip("`")] = (
            tuple(int(s) for s in sizes[1].replace("K", "3").split(",") if s.strip()) if sizes else None
        )
    return found


@torch.no_grad()
def test_the_shapes_are_those_in_the_tables():
    """Of the base preset; one clip of two frames and a dream of three stand for 8 clips of 16 and a dream of K."""
    model = aime.WorldModel(preset_config("base").model.for_actions(21)).eval()
    out = model.forward_sequence(torch.zeros(1, 2, 3, 64, 64), torch.zeros(1, 2, 21))
    dream = model.imagine(out.belief, torch.zeros(1, 3, 21))
    properties = {"reconstruction_mean", "reconstructions", "next_token_logits"}
    properties |= {"dpgmm_weights", "responsibilities", "surprise"}
    for heading, value, more in (
        ("SequenceOutput", out, properties),
        ("MixturePrior", out.prior, set()),
        ("Belief", out.belief, set()),
        ("Dream", dream, set()),
    ):
        shapes = documented_shapes(heading)
        fields = {field.name for field in dataclasses.fields(value)} - {"alpha_prior"}
        assert set(shapes) == fields | more, heading
        for name, shape in shapes.items():
            held = getattr(value, name)
            assert isinstance(held, Tensor) == (shape is not None), name
            if shape is not None:
                lead = (1, 2) if heading in ("SequenceOutput", "MixturePrior") else (1,)
                assert tuple(held.shape) == (*lead, *shape[len(lead) :]), name


def test_wrong_shapes_are_refused_in_the_words_of_the_table():
    said = [cells[1] for cells in rows(section(doc("docs/tensor-shapes.md"), "Common shape errors"))]
    config = ModelConfig(action_dim=21)
    frames, actions = torch.zeros(8, 16, 3, 64, 64, dtype=torch.uint8), torch.zeros(8, 16, 21)
    span = torch.linspace(0, 255, 16)[:, None, None, None].expand(8, 16, 3, 64, 64)
    for call in (
        (frames[0], actions, None),
        (frames.permute(0, 1, 3, 4, 2), actions, None),
        (frames[..., :32, :32], actions, None),
        (span, actions, None),
        (frames, actions[..., :6], None),
        (frames, actions[:, 1:], None),
        (frames, torch.linspace(-2, 2, 21).expand(8, 16, 21), None),
        (frames, actions, torch.zeros(8, 16)),
    ):
        with pytest.raises(AimeError) as caught:
            check_clip(config, *call)
        assert str(caught.value) in said


def test_the_reach_is_that_of_the_table():
    table = section(doc("docs/architecture.md"), "Which objective trains which part")
    model = small_model()
    reach = {name: {id(p) for p in found} for name, found in objective_reach(model).items()}
    reach["discriminator_loss"] = {id(p) for p in model.discriminator.parameters()}
    told = {part: cells[1:] for cells in rows(table) for part in quoted(cells[0])}
    assert set(told) == {name for name, module in model.named_children() if list(module.parameters())}
    for part, cells in told.items():
        own = {id(p) for p in getattr(model, part).parameters()}
        for objective, cell in zip((*OBJECTIVES, "discriminator_loss"), cells, strict=True):
            assert bool(own & reach[objective]) == ("✓" in cell), f"{objective} and {part}"


def test_the_evaluation_is_what_its_page_says():
    page = doc("docs/evaluation.md")
    first = lambda heading: [quoted(cells[0])[0] for cells in rows(section(page, heading))]  # noqa: E731
    assert first("What is compared") == list(PREDICTORS)
    assert first("What each number is") == [*METRICS, *DIFFERENCES]
    tree = ast.parse(textwrap.dedent(inspect.getsource(Evaluation.to_json)))
    content = next(node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    assert first("What is written") == [key.value for key in content.keys if isinstance(key, ast.Constant)]


def test_the_studies_are_what_their_page_says():
    page = doc("docs/evaluation.md")
    said = {quoted(cells[0])[0]: cells[1] for cells in rows(section(page, "The recipe"))}
    assert said == {name: str(value) for name, value in vars(RECIPE).items()}
    minutes = {quoted(cells[0])[0]: float(cells[1]) for cells in rows(section(page, "The benchmark"))}
    assert minutes == MINUTES
    variants = {quoted(cells[0])[0]: quoted(cells[2])[0] for cells in rows(section(page, "What each pillar is worth"))}
    full = preset_config("tiny")
    for name, setting in variants.items():
        changed = differences(full, VARIANTS[name][1](full))
        assert [f"{key}={new}" for key, (_, new) in changed.items()] == [setting]
    assert list(variants) == list(VARIANTS)


def test_the_recipe_by_hand_is_the_recipe():
    (line,) = blocks(section(doc("docs/evaluation.md"), "The recipe"), "bash")
    by_hand = parse(CollectConfig, shlex.split(line)[2:], prog="aime collect")
    assert by_hand == RECIPE.to_collect(by_hand.env, Path("data") / by_hand.env)


def test_presets_are_those_in_the_readme():
    table = {quoted(cells[0])[0]: cells for cells in rows(section(doc("README.md"), "The command line at a glance"))}
    assert set(table) == {"tiny", "base", "large"}
    for name, cells in table.items():
        model: ModelSettings = preset_config(name).model
        assert cells[3] == f"{model.latent_dim}, {model.hidden_dim}, {model.context_dim}"
        assert cells[4:] == [str(model.max_components), str(model.num_slots)]
