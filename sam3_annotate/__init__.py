"""sam3-annotate as a library: annotate images in this process, and read the annotations of an output.

    import sam3_annotate

    annotator = sam3_annotate.Annotator(model="models/sam3")
    for instance in annotator.annotate("image1.jpg").instances:
        print(instance.class_name, instance.score, instance.box_xyxy, instance.mask.sum())

    for image in sam3_annotate.open_results("s3://bucket/out"):
        print(image.key, len(image.instances))

This package only hands names on; `job.api` defines them. It needs no torch. Errors are those of `job.errors`.
"""

from job.api.annotation import Annotation, Instance
from job.api.annotator import Annotator
from job.api.results import Results, open_results
from job.errors import AnnotateError

__all__ = ["AnnotateError", "Annotation", "Annotator", "Instance", "Results", "open_results"]
