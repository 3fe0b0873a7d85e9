"""Boxes as tensors: conversion and overlap."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-9


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert boxes (..., 4) from centre and size to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def overlaps(first_xyxy: Tensor, second_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes (..., 4) that broadcast, and its generalisation to boxes apart.

    Returns:
        IoU in 0..1, and GIoU in -1..1, both (...).
    """
    inner = _area(
        torch.max(first_xyxy[..., :2], second_xyxy[..., :2]), torch.min(first_xyxy[..., 2:], second_xyxy[..., 2:])
    )
    hull = _area(
        torch.min(first_xyxy[..., :2], second_xyxy[..., :2]), torch.max(first_xyxy[..., 2:], second_xyxy[..., 2:])
    )
    areas = [_area(boxes[..., :2], boxes[..., 2:]) for boxes in (first_xyxy, second_xyxy)]
    union = areas[0] + areas[1] - inner + _TINY
    iou = inner / union
    return iou, iou - (hull - union) / (hull + _TINY)


def _area(upper_left: Tensor, lower_right: Tensor) -> Tensor:
    sides = (lower_right - upper_left).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
