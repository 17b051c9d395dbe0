"""What a network is conditioned on: rows, copies, devices, and how conditions are drawn."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import seed_numbers
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import (
    NAMES,
    UNCONDITIONAL,
    Condition,
    concatenate,
    every_class,
    seed_conditions,
)
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from tests.support import teachers


def texts(count: int, seed: int = 0) -> Condition:
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    return Condition(
        embeddings=draw(count, 5, 3), mask=torch.arange(count * 5).reshape(count, 5) % 2,
        pooled=draw(count, 4), time_ids=draw(count, 6),
    )  # fmt: skip


def columns(condition: Condition) -> dict[str, Tensor | None]:
    return {name: getattr(condition, name) for name in NAMES}


def same(one: Condition, other: Condition) -> bool:
    a, b = columns(one), columns(other)
    return all((a[n] is None) == (b[n] is None) and (a[n] is None or torch.equal(a[n], b[n])) for n in NAMES)


CONDITIONS = {"classes": every_class(6), "texts": texts(6), "pooled alone": Condition(embeddings=texts(6).embeddings)}
each = pytest.mark.parametrize("condition", CONDITIONS.values(), ids=list(CONDITIONS))


@each
def test_rows_are_those_of_every_tensor(condition: Condition) -> None:
    assert len(condition) == 6 and not condition.none
    for rows in (slice(2, 5), torch.tensor([3, 0, 0]), slice(0)):
        part = condition.rows(rows)
        for name, tensor in columns(condition).items():
            assert (getattr(part, name) is None) == (tensor is None)
            assert tensor is None or torch.equal(getattr(part, name), tensor[rows])


@each
def test_parts_joined_are_the_whole(condition: Condition) -> None:
    parts = [condition.rows(slice(k, k + 2)) for k in (0, 2, 4)]
    assert same(concatenate(parts), condition)
    assert same(condition.repeat(2), concatenate([condition, condition]))
    assert same(condition.rows(slice(1)).expand(3), condition.rows(torch.zeros(3, dtype=torch.long)))
    assert same(condition.first(3), condition.rows(slice(1)).repeat(3))


def test_an_unconditional_one_has_no_rows_and_never_changes() -> None:
    assert UNCONDITIONAL.none and len(UNCONDITIONAL) == 0 and UNCONDITIONAL.mark is None
    for changed in (
        UNCONDITIONAL.rows(slice(3)), UNCONDITIONAL.repeat(2), UNCONDITIONAL.expand(4), UNCONDITIONAL.to("meta"),
        concatenate([UNCONDITIONAL, UNCONDITIONAL]), UNCONDITIONAL.first(2), every_class(None), every_class(0),
    ):  # fmt: skip
        assert changed.none and same(changed, UNCONDITIONAL)


def test_a_type_is_that_of_vectors_alone() -> None:
    moved = texts(2).to("cpu", torch.float64)
    assert moved.embeddings is not None and moved.embeddings.dtype == torch.float64
    assert moved.mask is not None and moved.mask.dtype == torch.int64
    assert every_class(3).to("cpu", torch.float16).classes.dtype == torch.int64  # type: ignore[union-attr]
    assert texts(2).to("meta").pooled.device.type == "meta"  # type: ignore[union-attr]


def test_a_mark_tells_conditions_apart() -> None:
    assert every_class(5).rows(slice(3, 4)).mark == 3
    one = texts(3)
    marks = {one.rows(slice(k, k + 1)).mark for k in range(3)}
    assert len(marks) == 3 and one.rows(slice(1)).mark == texts(3).rows(slice(1)).mark in marks
    assert Condition(embeddings=one.embeddings).mark != one.mark
    # the same numbers in another shape, or under another name
    numbers = torch.arange(12.0)
    shapes = [Condition(embeddings=numbers.reshape(1, *shape)) for shape in ((3, 4), (4, 3))]
    assert shapes[0].mark != shapes[1].mark


def test_copies_of_a_model_share_it() -> None:
    condition = texts(2)
    assert copy.deepcopy(condition) is condition
    model = Denoiser(teachers.unet(teachers.TINY, num_class_embeds=3), BetaSchedule.linear()).with_condition(condition)
    assert copy.deepcopy(model).condition is condition


def test_a_condition_is_drawn_by_number() -> None:
    assert UNCONDITIONAL.draw(lambda count: pytest.fail("nothing to draw")).none
    pool, seeds = texts(4), range(20)
    drawn = seed_conditions(pool, seeds)
    assert same(drawn, pool.rows(seed_numbers(seeds, 4)))
    assert torch.equal(seed_conditions(every_class(4), seeds).classes, seed_numbers(seeds, 4))  # type: ignore[arg-type]
    some = seed_conditions(pool, [seeds[7], seeds[2]])
    assert same(some, drawn.rows(torch.tensor([7, 2])))


@torch.no_grad()
def test_the_call_s_condition_goes_before_the_view_s_and_the_default() -> None:
    model = Denoiser(teachers.unet(teachers.TINY, num_class_embeds=3), BetaSchedule.linear())
    z, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0])
    ones = Condition(torch.tensor([1, 1]))
    view = model.with_condition(ones)
    assert torch.equal(view(z, sigma), model(z, sigma, ones))
    assert torch.equal(view(z, sigma, every_class(3).first(2)), model(z, sigma, every_class(3).first(2)))
    assert torch.equal(model.with_condition(ones.rows(slice(1)))(z, sigma), model(z, sigma, ones))  # one row for all
    generator = Generator(model)
    assert torch.equal(generator(z), generator(z, every_class(3).first(2)))
    generator.condition = ones.rows(slice(1))
    assert torch.equal(generator(z), generator(z, ones))
    assert not torch.equal(generator(z), generator(z, every_class(3).first(2)))


def test_a_call_compiles_to_one_graph() -> None:
    """fullgraph: nothing in the record asks for the values of its tensors."""
    table = torch.randn(4, 3)

    def call(x: Tensor, given: Condition) -> Tensor:
        rows = concatenate([given.rows(slice(2)), given]).repeat(2)
        return x if rows.classes is None else x + table[rows.classes].sum(0)

    compiled = torch.compile(call, fullgraph=True, backend="eager")
    x = torch.randn(3)
    for given in (every_class(4), UNCONDITIONAL):
        assert torch.equal(compiled(x, given), call(x, given))


# -- mixtures -----------------------------------------------------------------------------------


def test_a_mixture_is_linear_in_every_vector_and_meets_its_ends() -> None:
    a, b = texts(1, 1), replace(texts(1, 2), mask=torch.tensor([[1, 1, 0, 0, 0]]))
    share = torch.tensor([0.0, 0.25, 1.0, 1.5])
    found = a.mix(b, share)
    assert len(found) == 4
    for name in ("embeddings", "pooled", "time_ids"):
        one, other, mixed = (getattr(c, name) for c in (a, b, found))
        assert torch.equal(mixed[0], one[0]) and torch.equal(mixed[2], other[0])
        torch.testing.assert_close(mixed[1], 0.75 * one[0] + 0.25 * other[0])
        torch.testing.assert_close(mixed[3], other[0] + 0.5 * (other[0] - one[0]))
    assert a.mask.tolist() == [[0, 1, 0, 1, 0]]
    both = [[0, 1, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]  # between the ends: what both have
    assert found.mask.tolist() == both


def test_tokens_that_both_texts_share_stay() -> None:
    """CLIP's first token is the same for all texts, and the longest of its vectors."""
    a, b = texts(1, 1), replace(texts(1, 2), mask=texts(1, 1).mask)
    b.embeddings[:, 0] = a.embeddings[:, 0]
    mixed = a.mix(b, torch.linspace(0, 1, 7)).embeddings
    torch.testing.assert_close(mixed[:, 0], a.embeddings[:, 0].expand(7, -1))
    assert not torch.allclose(mixed[3, 1], mixed[0, 1])


@pytest.mark.parametrize(
    "other",
    [Condition(embeddings=texts(1).embeddings), replace(texts(1), embeddings=torch.zeros(1, 4, 3)),
     every_class(1)],
    ids=["no pooled vector", "another length", "a class"],
)  # fmt: skip
def test_what_has_no_place_between_is_refused(other: Condition) -> None:
    with pytest.raises(GsdError) as caught:
        texts(1).mix(other, torch.tensor([0.5]))
    assert caught.value.hint
