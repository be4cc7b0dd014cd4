"""Image batches, read and preprocessed by CPU threads ahead of the device."""

from __future__ import annotations

import copy
import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from PIL import Image

from lenscore.images.geometry import image_geometry
from lenscore.images.geometry.grids import ImageGeometry
from lenscore.images.image_files import ImageFile, UnreadableImageError, open_image
from lenscore.models.decoder import require_room
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError, first_line

THREADS = 4
"""Batches in preparation at a time; each thread has its own processor, and all have one tokenizer."""


@dataclass(frozen=True)
class Batch:
    """Some images, ready for the model.

    `inputs` are the processor's tensors on the host, `image_ids` and `geometries` belong to their rows; all three are
    empty if no image could be read. `unreadable` maps the ids of the other images to the reason.
    """

    image_ids: tuple[int, ...]
    inputs: dict[str, Any]
    geometries: tuple[ImageGeometry, ...]
    unreadable: dict[int, str]

    def on_device(self, vlm: Vlm) -> dict[str, Any]:
        """The inputs on the model's device, floating-point ones in its dtype."""
        return {
            name: value.to(vlm.device, vlm.model.dtype if value.is_floating_point() else None)
            for name, value in self.inputs.items()
        }


class BatchReader:
    """Turns image files into batches of a fixed size for one model and one prompt.

    Raises InputError at once if the processor does not work or the model's patch grid is not supported.
    """

    def __init__(self, vlm: Vlm, prompt: str, batch_size: int, threads: int = THREADS) -> None:
        self._vlm = vlm
        require_no_placeholder(prompt, vlm.model.config, vlm.tokenizer, getattr(vlm.processor, "image_token", None))
        self._text = prompt_with_image(vlm.processor, prompt)
        self._batch_size = batch_size
        # Some processors return labels, for which the model would compute a loss.
        self._accepted = set(inspect.signature(vlm.model.forward).parameters) - {"labels"}
        self._threads, self._has_threads = threads, False
        self._processors: SimpleQueue[Any] = SimpleQueue()
        self._tokenizer = called_by_one_thread(vlm.processor.tokenizer)
        # A processor that fails on a plain picture would fail on all images, which would be reported as unreadable.
        probe = Image.new("RGB", (64, 48))
        try:
            inputs = processed(vlm.processor, self._text, [probe])
        except Exception as error:  # whatever a processor raises
            raise InputError(
                f"--model {vlm.name}: its processor cannot take a plain picture ({first_line(error)})"
            ) from error
        image_geometry(vlm, inputs, [probe.size])

    def read(self, images: Sequence[tuple[int, ImageFile]]) -> Iterator[Batch]:
        """The batches of (id, image) pairs, in order, each of `batch_size` images (the last may have fewer).

        Batches depend only on the order: an unreadable image is left out of its batch and not replaced. Raises errors
        of the preparing threads, and InputError for an image that changed since it was found.
        """
        self._has_threads = True
        groups = (images[i : i + self._batch_size] for i in range(0, len(images), self._batch_size))
        ahead: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for group in groups:
                    ahead.append(pool.submit(self._prepare, group))
                    if len(ahead) > self._threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _prepare(self, group: Sequence[tuple[int, ImageFile]]) -> Batch:
        pictures: dict[int, Image.Image] = {}
        unreadable: dict[int, str] = {}
        for image_id, image in group:
            try:
                pictures[image_id] = open_image(image)
            except UnreadableImageError as reason:
                unreadable[image_id] = str(reason)
        with self._processor() as processor:
            return self._batch(processor, pictures, unreadable)

    def batch_of(self, pictures: dict[int, Image.Image]) -> Batch:
        """One batch of pictures (RGB, by id) in memory, as from `read`, whose threads may be at work."""
        if not self._has_threads:
            return self._batch(self._vlm.processor, pictures, {})
        with self._processor() as processor:
            return self._batch(processor, pictures, {})

    @contextmanager
    def _processor(self) -> Iterator[Any]:
        """A processor for one thread."""
        try:
            processor = self._processors.get_nowait()
        except Empty:
            # Not with the tokenizer: of a large one each copy takes seconds and a hundred megabytes.
            shared = {id(self._vlm.processor.tokenizer): self._tokenizer}
            processor = copy.deepcopy(self._vlm.processor, shared)
        try:
            yield processor
        finally:
            self._processors.put(processor)

    def _batch(self, processor: Any, pictures: dict[int, Image.Image], unreadable: dict[int, str]) -> Batch:
        """A batch of the pictures; if that fails, those that fail alone are moved to `unreadable`.

        Raises InputError for an unsupported geometry, which is no fault of the image.
        """
        try:
            return self._together(processor, pictures, unreadable)
        except InputError:
            raise
        except Exception:
            for image_id, picture in list(pictures.items()):
                try:
                    self._together(processor, {image_id: picture}, unreadable)
                except InputError:
                    raise
                except Exception as error:  # whatever a processor raises for an image
                    known = isinstance(error, UnreadableImageError)
                    unreadable[image_id] = (
                        str(error) if known else f"the image processor refuses it: {first_line(error)}"
                    )
                    del pictures[image_id]
            return self._together(processor, pictures, unreadable)

    def _together(self, processor: Any, pictures: dict[int, Image.Image], unreadable: dict[int, str]) -> Batch:
        if not pictures:
            return Batch((), {}, (), unreadable)
        inputs = processed(processor, self._text, list(pictures.values()))
        geometries = image_geometry(self._vlm, inputs, [picture.size for picture in pictures.values()])
        kept = {name: value for name, value in inputs.items() if name in self._accepted}
        return Batch(tuple(pictures), kept, tuple(geometries), unreadable)


def processed(processor: Any, text: str, pictures: list[Image.Image]) -> Any:
    """The model's inputs for pictures (RGB), each with the same text; see `prompt_with_image`."""
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so any token will do
    begins = getattr(tokenizer, "bos_token", None)
    return processor(
        images=[[picture] for picture in pictures],  # one for each text; a flat list may belong to one text
        text=[text] * len(pictures),
        return_tensors="pt",
        # Images of different sizes have different numbers of tokens. Padding at the end changes no position.
        padding=True,
        padding_side="right",
        # A chat template may contain BOS already.
        add_special_tokens=not (begins and text.startswith(begins)),
    )


def require_room_for_image(tokens: int, answer: int, text_config: Any, name: str) -> None:
    """Raises InputError if an image with its prompt (`tokens`) and an `answer` is longer than the model's context."""
    total = tokens + answer
    beside, flags = ("prompt and answer", "--prompt or --max-new-tokens") if answer else ("its prompt", "--prompt")
    remedy = f"shorten {flags}, or give smaller images if their size decides"
    require_room(total, text_config, f"{name}: {total:,} tokens with {beside}", remedy)


def called_by_one_thread(tokenizer: Any) -> Any:
    """The same tokenizer for several threads: a call waits for those of others, which a fast tokenizer refuses."""
    kind, lock = type(tokenizer), threading.RLock()

    def one_at_a_time(name: str) -> Callable[..., Any]:
        def call(*args: Any, **settings: Any) -> Any:
            with lock:
                return getattr(kind, name)(*args, **settings)

        return call

    shared = copy.copy(tokenizer)
    names = ("__call__", "encode", "tokenize")
    shared.__class__ = type(kind.__name__, (kind,), {name: one_at_a_time(name) for name in names})
    return shared


def require_no_placeholder(prompt: str, config: Any, tokenizer: Any, token: str | None = None) -> None:
    """Raises InputError if the prompt holds the image token, which is inserted before it.

    `token` is its name in the processor, if known.
    """
    image_id = getattr(config, "image_token_id", None)
    known = {token, None if image_id is None else tokenizer.convert_ids_to_tokens(image_id)}
    for placeholder in known - {None, ""}:
        if str(placeholder) in prompt:
            raise InputError(
                f"--prompt: holds {placeholder!r}, which stands for the image; leave it out, the image comes first"
            )


def prompt_with_image(processor: Any, prompt: str) -> str:
    """The text for one image: the model's chat template, or the image token before the prompt."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return f"{processor.image_token} {prompt}".rstrip()
