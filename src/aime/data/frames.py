"""Frames of a simulated scene: by OpenGL (EGL or OSMesa, through dm_control), or by MuJoCo Warp on the CPU.

Both draw the same camera of the same scene. Warp traces rays and needs no graphics library, but knows geoms only:
tendons (the string of ball_in_cup), sites (the target of finger) and reflections are missing from its frames, and the
dog wears its collision shapes in place of its skin.

Which library dm_control takes is settled when it is first imported, so a process draws with one renderer; `collect`
gives each of its workers the right environment (see `renderer_environment`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from aime.errors import RenderError

FAST_QUALITY: Mapping[str, int] = {"shadowsize": 256, "numslices": 12, "numstacks": 8}
"""Software OpenGL draws 64×64 frames 3–4 times as fast with a small shadow map and with round things made of fewer
triangles; pixels change by less than half of 1/255 on average. Multisampling stays on: it costs a third, and without it
the rail of the cartpole vanishes and a pole moves by jumps of a pixel."""

_VISIBLE_GROUPS = (0, 1, 2)
_COLLISION_GROUP = 3
"""What a skin hides: simple shapes that stand for the body where skins cannot be drawn or told apart."""


@runtime_checkable
class FrameRenderer(Protocol):
    """Draws the present state of a scene."""

    def frame(self) -> np.ndarray:
        """The camera's picture, uint8 (size, size, 3)."""

    def segmentation(self) -> np.ndarray:
        """For each pixel the number of the body seen there, uint8 (size, size); 0 for the sky and for all that is fixed
        to the world."""

    def reset(self) -> None:
        """Takes note that a new episode has begun, for which the scene itself may have been changed."""

    def close(self) -> None:
        """Frees the graphics context; to be called before the process ends."""


def renderer_environment(name: str) -> dict[str, str]:
    """Environment variables for a process that draws with a renderer (egl, osmesa or warp)."""
    gl = {"MUJOCO_GL": "disabled" if name == "warp" else name}
    if name == "osmesa":
        gl["PYOPENGL_PLATFORM"] = "osmesa"
    # Each process draws on its own core: threads of llvmpipe or of a maths library would only fight over it.
    return {**gl, "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def open_renderer(name: str, physics: Any, size: int, camera: int = 0) -> FrameRenderer:
    """A renderer for a dm_control `Physics`; to be opened before the first reset.

    Args:
        name: egl, osmesa or warp, as found by `select_renderer`.
        size: height and width in pixels.
        camera: number of a camera of the model.

    Raises:
        RenderError: it cannot draw here.
    """
    if name == "warp":
        return _WarpRenderer(physics, size, camera)
    return _GLRenderer(name, physics, size, camera)


def _moving_bodies(model: Any) -> np.ndarray:
    """For each geom, and last for the background, the number of its body, or 0 if that cannot move."""
    body = np.asarray(model.geom_bodyid)
    welded = np.asarray(model.body_weldid)[body]
    moving = np.where(welded == 0, 0, body)
    return np.append(np.minimum(moving, 255), 0).astype(np.uint8)


class _GLRenderer:
    def __init__(self, name: str, physics: Any, size: int, camera: int) -> None:
        from dm_control import _render
        from dm_control.mujoco import engine, wrapper
        from mujoco import mjtVisFlag

        if name != _render.BACKEND:
            raise RenderError(
                f"this process has dm_control loaded with {_render.BACKEND or 'no renderer'}, so it cannot draw with "
                f"{name}; set MUJOCO_GL={name} before dm_control is imported"
            )
        visual = physics.model.vis
        for setting, value in FAST_QUALITY.items():
            setattr(visual.quality, setting, value)
        # The offscreen buffer is cleared and read as a whole, so it is made no larger than the frame.
        visual.global_.offwidth = visual.global_.offheight = size
        self._physics = physics
        try:
            self._camera = engine.Camera(physics, height=size, width=size, camera_id=camera)
            self._camera.render()
        except Exception as error:  # PyOpenGL and dm_control raise whatever the driver's failure leads to
            raise RenderError(f"{name} failed to draw: {error}") from error
        self._body_of_geom = _moving_bodies(physics.model)
        self._bare = wrapper.MjvOption()
        if physics.model.nskin:
            self._bare.flags[mjtVisFlag.mjVIS_SKIN] = 0
            self._bare.geomgroup[_COLLISION_GROUP] = 1

    def frame(self) -> np.ndarray:
        return self._camera.render().copy()

    def segmentation(self) -> np.ndarray:
        import mujoco

        seen = self._camera.render(segmentation=True, scene_option=self._bare)
        geom = np.where(seen[..., 1] == mujoco.mjtObj.mjOBJ_GEOM, seen[..., 0], -1)
        return self._body_of_geom[geom]

    def reset(self) -> None:
        pass  # OpenGL draws from the model as it is

    def close(self) -> None:
        self._physics.free()


class _WarpRenderer:
    _FOLLOWED = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
    _PAINTED = ("geom_size", "geom_rgba", "mat_rgba")

    def __init__(self, physics: Any, size: int, camera: int) -> None:
        try:
            import mujoco_warp
            import warp
        except ImportError as error:
            raise RenderError(f"warp is not installed: {error}; pip install mujoco-warp") from error
        warp.config.log_level = warp.LOG_WARNING
        self._warp, self._mjw = warp, mujoco_warp
        self._physics, self._size, self._camera_id = physics, size, camera
        # Tasks that alter their terrain ask for OpenGL contexts to tell; here there are none.
        physics.__class__ = type(type(physics).__name__, (type(physics),), {"contexts": None})
        self._model_c, self._data_c = physics.model.ptr, physics.data.ptr
        self._body_of_geom = _moving_bodies(physics.model)
        self._build()

    def _build(self) -> None:
        """Copies the scene. Later only what moves or is repainted is copied."""
        with self._warp.ScopedDevice("cpu"):
            self._model = self._mjw.put_model(self._model_c)
            self._data = self._mjw.put_data(self._model_c, self._data_c)
            self._context = self._mjw.create_render_context(
                self._model_c,
                nworld=1,
                cam_res=[(self._size, self._size)],
                cam_active=[self._camera_id],
                enabled_geom_groups=[*_VISIBLE_GROUPS, *([_COLLISION_GROUP] if self._model_c.nskin else [])],
                render_rgb=[True],
                render_depth=[False],
                render_seg=[True],
                use_shadows=True,
                render_skybox=True,
                # Four rays to a pixel: with one, thin things vanish and the stars of the sky flicker.
                samples_per_pixel=2,
            )
        # On the CPU these are the arrays themselves, not copies.
        self._moving = [(getattr(self._data, name).numpy(), name) for name in self._FOLLOWED]
        self._painted = [(getattr(self._model, name).numpy(), name) for name in self._PAINTED]

    def _draw(self) -> None:
        for arrays, source in ((self._moving, self._data_c), (self._painted, self._model_c)):
            for array, name in arrays:
                array[0] = getattr(source, name).reshape(array[0].shape)
        with self._warp.ScopedDevice("cpu"):
            self._mjw.refit_bvh(self._model, self._data, self._context)
            self._mjw.render(self._model, self._data, self._context)

    def frame(self) -> np.ndarray:
        self._draw()
        pixels = self._context.rgb_data.numpy()[0].view(np.uint8).reshape(self._size, self._size, 4)
        return np.ascontiguousarray(pixels[..., 2::-1])  # stored as blue, green, red, alpha

    def segmentation(self) -> np.ndarray:
        import mujoco

        self._draw()
        seen = self._context.seg_data.numpy()[0].reshape(self._size, self._size, 2)
        geom = np.where(seen[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM), seen[..., 0], -1)
        return self._body_of_geom[geom]

    def reset(self) -> None:
        if self._model_c.nhfield:
            self._build()

    def close(self) -> None:
        pass  # nothing outside Python's own memory
