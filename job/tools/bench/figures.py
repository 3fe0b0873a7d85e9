"""The figures of one `bench`, as its JSON file holds them."""

from __future__ import annotations

from pathlib import Path

import msgspec


def is_bench_file(name: str) -> bool:
    """Whether a file of docs/measurements holds a `BenchReport`: NAME.json, with no other suffix before `.json`."""
    return Path(name).suffixes == [".json"]


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine that was measured.

    Attributes:
        processor: Name of the processor.
        instructions: Instruction set extensions that decide the speed of matrix products.
        cpus: Processors that this process may use.
        memory_bytes: Maximum memory of this process.
        gpu: Name of the GPU, or empty when the model runs on a CPU.
        driver: Version of its driver, or empty.
    """

    processor: str
    instructions: tuple[str, ...]
    cpus: int
    memory_bytes: int
    gpu: str = ""
    driver: str = ""

    @property
    def host(self) -> str:
        """Processor, number and instruction sets as one phrase."""
        return f"{self.processor}, {self.cpus} cores, {', '.join(self.instructions) or 'extensions unknown'}"


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured.

    Attributes:
        model_id: From the manifest.
        precision: From the manifest.
        artifact: Digest of the artifact.
        runtime: Name and version of the library.
        provider: Execution provider.
        threads: Threads inside one operator; 0 on a GPU.
        image_side: Side of the model's square, in pixels.
        prompts: Number of prompts.
        instances: Instances in each picture, by a fixed selection.
        picture_wh: Width and height of the JPEG pictures, in pixels.
    """

    model_id: str
    precision: str
    artifact: str
    runtime: str
    provider: str
    threads: int
    image_side: int
    prompts: int
    instances: int
    picture_wh: tuple[int, int]


class BatchFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The figures of one batch size. Times are medians.

    Attributes:
        batch_size: Images in one call of the model.
        in_flight: Concurrent calls.
        load_s: Seconds to open the session; files may be in the page cache.
        encoder_ms: Milliseconds an image of the image encoder.
        grounding_ms: Milliseconds an image of the grounding of all prompts, without masks.
        prompt_ms: Milliseconds an image of the grounding of one prompt alone, without masks.
        mask_output_ms: Milliseconds an image that the selected masks add.
        images_per_s: From JPEG files to written masks, model loaded.
        images: Number of images of that measurement.
        device_bytes: Memory of the GPU in use afterwards, by all processes; None on a CPU.
    """

    batch_size: int
    in_flight: int
    load_s: float
    encoder_ms: float
    grounding_ms: float
    prompt_ms: float
    mask_output_ms: float
    images_per_s: float
    images: int
    device_bytes: int | None = None

    @property
    def model_ms(self) -> float:
        """Milliseconds an image of the whole model."""
        return self.encoder_ms + self.grounding_ms + self.mask_output_ms


class OriginalFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same work through eager `sam3`: one picture at a time, model calls only, nothing written. Medians.

    Attributes:
        library: Name and version.
        device: `cuda` or `cpu`.
        threads: Threads of torch; 0 on a GPU.
        encoder_ms: Milliseconds of `set_image`, the resize included.
        grounding_ms: Milliseconds of `set_text_prompt` for all prompts, the masks at full size included.
    """

    library: str
    device: str
    threads: int
    encoder_ms: float
    grounding_ms: float

    @property
    def model_ms(self) -> float:
        """Milliseconds an image."""
        return self.encoder_ms + self.grounding_ms


class Roofline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A static prediction for this card.

    Attributes:
        card: Name of the card in the cost model.
        predicted_ms: Milliseconds an image by the cost model.
        share: Prediction divided by the best measured time of the model; 1 is as predicted.
    """

    card: str
    predicted_ms: float
    share: float


class BenchReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All figures of one `bench`.

    Attributes:
        date: Day in UTC, YYYY-MM-DD.
        version: Version of sam3-annotate.
        machine: Where.
        setting: What.
        batches: By batch size, ascending.
        largest_batch_error: Why larger batches were not measured, or empty.
        host_ms: Milliseconds of core time an image, by stage of the host.
        resident_bytes: Peak of the resident memory of this process, before the original was loaded.
        original: Eager `sam3`, or None if it was not measured.
        roofline: Prediction of the cost model, or None.
    """

    date: str
    version: str
    machine: Machine
    setting: Setting
    batches: tuple[BatchFigures, ...]
    largest_batch_error: str = ""
    host_ms: dict[str, float]
    resident_bytes: int
    original: OriginalFigures | None = None
    roofline: Roofline | None = None

    @property
    def best(self) -> BatchFigures:
        """The batch size with the most images/s."""
        return max(self.batches, key=lambda figures: figures.images_per_s)


def encode_report(report: msgspec.Struct) -> bytes:
    """Encode a report of any kind as JSON: indented, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
