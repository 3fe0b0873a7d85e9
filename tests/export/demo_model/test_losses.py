from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.demo_model.training.boxes import cxcywh_to_xyxy, overlaps
from export.demo_model.training.dense import dense_box_loss
from export.demo_model.training.losses import dice_loss, mask_losses, score_loss
from export.demo_model.training.matching import Matches, match

UNIT = st.floats(0.0625, 0.9375, width=32)
BOXES = st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), min_size=1, max_size=5).map(torch.tensor)


@settings(deadline=None)
@given(BOXES)
def test_box_overlaps_itself_fully(boxes: torch.Tensor) -> None:
    corners = cxcywh_to_xyxy(boxes)
    iou, giou = overlaps(corners, corners)
    torch.testing.assert_close(iou, torch.ones_like(iou), atol=1e-4, rtol=0)
    torch.testing.assert_close(giou, torch.ones_like(giou), atol=1e-4, rtol=0)


@settings(deadline=None)
@given(BOXES, BOXES)
def test_generalised_overlap_never_exceeds_overlap(first: torch.Tensor, second: torch.Tensor) -> None:
    iou, giou = overlaps(cxcywh_to_xyxy(first)[:, None], cxcywh_to_xyxy(second)[None])
    assert iou.shape == (len(first), len(second))
    assert (giou <= iou + 1e-5).all()
    assert ((iou >= 0) & (giou >= -1 - 1e-5)).all()


@settings(deadline=None)
@given(BOXES)
def test_every_object_is_matched_by_a_query_of_its_own(boxes: torch.Tensor) -> None:
    queries = torch.cat([torch.full((3, 4), 0.5), boxes])[None]
    matches = match(torch.zeros(1, queries.shape[1]), queries, [boxes])
    assert sorted(matches.targets.tolist()) == list(range(len(boxes)))
    assert len(set(matches.queries.tolist())) == len(boxes)


def test_queries_match_the_objects_at_their_boxes() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.2, 0.2]])
    predicted = torch.stack([boxes, boxes.flip(0)])
    matches = match(torch.zeros(2, 2), predicted, [boxes, boxes[:1]])
    assert list(zip(matches.pairs.tolist(), matches.queries.tolist(), matches.targets.tolist(), strict=True)) == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 1, 2),
    ]


def test_an_object_matches_several_queries_and_a_query_one_object() -> None:
    matches = match(torch.zeros(1, 7), torch.rand(1, 7, 4), [torch.rand(2, 4)], queries_per_object=3)
    assert sorted(matches.targets.tolist()) == [0, 0, 0, 1, 1, 1]
    assert len(set(matches.queries.tolist())) == 6


def test_without_objects_nothing_is_matched() -> None:
    assert len(match(torch.zeros(1, 3), torch.rand(1, 3, 4), [torch.zeros(0, 4)])) == 0


def test_correct_masks_have_low_loss_and_full_quality() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, 2:5, 2:6] = 1
    logits = (target * 2 - 1) * 20
    entropy, dice, iou = mask_losses(logits, target)
    assert entropy.item() == pytest.approx(0, abs=1e-4)
    assert dice.item() == pytest.approx(0, abs=1e-3)
    assert iou.item() == 1
    entropy, dice, iou = mask_losses(-logits, target)
    assert entropy.item() > 1
    assert dice.item() > 0.9
    assert iou.item() == 0


@settings(deadline=None)
@given(st.integers(0, 2**16 - 1))
def test_dice_loss_is_between_0_and_1(bits: int) -> None:
    target = torch.tensor([float(bits >> bit & 1) for bit in range(16)]).reshape(4, 4)
    assert 0 <= dice_loss(torch.randn(4, 4), target).item() <= 1


def test_unmatched_scores_fall_only_if_the_prompt_is_present() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    matches = Matches(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    score_loss(logits, matches, torch.tensor([0.95]), torch.tensor([1.0, 0.0])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[0, [0, 2]] > 0).all()
    assert logits.grad[0, 1] < 0
    assert (logits.grad[1] == 0).all()


def test_dense_boxes_are_assigned_to_cells_in_the_middle_of_an_object() -> None:
    output = torch.zeros(2, 5, 8, 8, requires_grad=True)
    dense_box_loss(output, [torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.zeros(0, 4)]).backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert (output.grad[0, 0, 3:5, 3:5] < 0).all()
    assert output.grad[0, 1:, 0, 0].abs().sum() == 0
    assert (output.grad[1, 0] > 0).all()
