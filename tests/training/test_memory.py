"""What was watched lately: what is kept, what is forgotten, and that a resumed run has it again."""

from __future__ import annotations

import torch

from aime.rehearsal import Glimpses, Recollection
from aime.training.memory import Memory, Ring

GOOD, BAD = torch.tensor(False), torch.tensor(True)


def seen(value: float, clips: int = 2) -> Recollection:
    def filled(*size: int) -> torch.Tensor:
        return torch.full((clips, 3, *size), value)

    return Recollection(filled(4), filled(4), filled(5), filled(1), filled().bool())


def values(memory: Ring[Recollection]) -> set[float]:
    torch.manual_seed(0)
    return set(memory.draw(200).mean[:, 0, 0].tolist())


def test_the_oldest_batch_is_forgotten():
    memory = Ring(Recollection, batches=3, fresh=3)
    assert len(memory) == 0
    for value in range(5):
        memory.add(seen(float(value)), GOOD)
        assert len(memory) == 2 * min(3, value + 1)
    assert values(memory) == {2.0, 3.0, 4.0}


def test_what_is_drawn_is_at_most_as_old_as_a_share_of_all():
    memory = Ring(Recollection, batches=8, fresh=2, share=0.25)
    for value in range(30):
        memory.add(seen(float(value)), GOOD)
        oldest = max(2, (value + 1) // 4)
        assert len(memory) == 2 * min(value + 1, 8, oldest)
        assert values(memory) == set(map(float, range(value + 1)[-min(8, oldest) :]))


def test_what_belongs_together_is_drawn_together():
    memory = Ring(Recollection, batches=3, fresh=3)
    for value in range(3):
        memory.add(seen(float(value)), GOOD)
    drawn = memory.draw(50)
    assert torch.equal(drawn.mean[:, 0, 0], drawn.context[:, 0, 0])
    assert torch.equal(drawn.mean[:, 0, 0], drawn.actions[:, 0, 0])
    assert torch.equal(drawn.mean[:, 0, 0] > 0, drawn.is_first[:, 0])


def test_a_bad_batch_leaves_what_was_there():
    memory = Ring(Recollection, batches=1, fresh=1)
    memory.add(seen(1.0), GOOD)
    memory.add(seen(torch.nan), BAD)
    assert values(memory) == {1.0}


def test_a_bad_batch_is_not_drawn_while_the_memory_fills():
    memory = Ring(Recollection, batches=3, fresh=3)
    memory.add(seen(torch.nan), BAD)
    assert len(memory) == 0
    memory.add(seen(1.0), GOOD)
    memory.add(seen(torch.nan), BAD)
    assert values(memory) == {1.0}


def test_batches_of_another_shape_start_anew():
    memory = Ring(Recollection, batches=3, fresh=3)
    memory.add(seen(1.0), GOOD)
    memory.add(seen(2.0, clips=5), GOOD)
    assert len(memory) == 5 and values(memory) == {2.0}


def test_a_resumed_memory_goes_on_as_if_it_had_never_stopped():
    memory, resumed = Memory(), Memory()
    for value in range(70):
        memory.clips.add(seen(float(value)), GOOD)
        memory.frames.add(Glimpses(torch.full((5, 3, 8, 8), value, dtype=torch.uint8)), GOOD)
    resumed.load_state_dict(memory.state_dict(), torch.device("cpu"))
    for each in (memory, resumed):
        each.clips.add(seen(9.0), GOOD)
    torch.manual_seed(0)
    ours, frames = memory.clips.draw(20), memory.frames.draw(20)
    torch.manual_seed(0)
    theirs, same = resumed.clips.draw(20), resumed.frames.draw(20)
    assert torch.equal(frames.frames, same.frames) and frames.frames.min() >= 70 - 32
    assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.is_first, theirs.is_first)
