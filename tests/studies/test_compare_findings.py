"""Sentences follow the numbers, and say no more than their intervals carry."""

from __future__ import annotations

import dataclasses

from made_results import made, score
from sfumato.studies.findings import findings, names, number, span
from sfumato.studies.results import DIVERGED, Result


def said(*results: Result) -> str:
    return "\n".join(findings(results))


def test_the_winner_and_who_cannot_be_told_from_it() -> None:
    clear = said(made("ddpm", 20), made("ldm", 10), made("vae", 40))
    assert (
        "LDM (KL) has the lowest Fréchet distance, 10 (9.5 to 10.5), where other real pictures have 3; the next, pixel DDPM"
        in clear
    )
    close = said(made("ddpm", 10.8), made("ldm", 10))
    assert "By the intervals pixel DDPM cannot be told from it." in close


def test_latents_win_only_where_they_do() -> None:
    rivals = [made("ddpm", 20), made("vae", 50), made("flow", 60), made("autoregressive", 30)]
    won = said(*rivals, made("ldm", 12), made("dit", 11))
    assert "At equal training time the latent model wins: LDM, transformer, 11 (10.5 to 11.5), is better than pixel DDPM" in won
    mixed = said(made("ddpm", 8), *rivals[1:], made("ldm", 12))
    assert "the latent model wins" not in mixed
    assert "is worse than pixel DDPM (8 (7.5 to 8.5))" in mixed
    assert "is better than PixelCNN++ (30 (29.5 to 30.5)), VAE (50 (49.5 to 50.5)) and flow" in mixed
    level = said(made("ddpm", 12.4), made("ldm", 12))
    assert "At equal training time: LDM (KL), 12 (11.5 to 12.5), cannot be told from pixel DDPM" in level


def test_the_gans_recall_stands_beside_the_others() -> None:
    low = said(made("gan", recall=0.2), made("vae", recall=0.4), made("ddpm", recall=0.6))
    assert "the recall of GAN is 0.2 (0.19 to 0.21), at a precision of 0.7; all of the models" in low
    assert "(pixel DDPM 0.6, VAE 0.4)" in low
    assert "1 of 2 of the models" in said(made("gan", recall=0.5), made("vae", recall=0.4), made("ddpm", recall=0.6))
    assert "none of the models" in said(made("gan", recall=0.7), made("vae", recall=0.4))
    assert "Mode coverage" not in said(made("vae"), made("ddpm"))


def with_bits(name: str, fd: float, bits: float, kind: str = "bound") -> Result:
    result = made(name, fd)
    return dataclasses.replace(result, scores=result.scores | {"bits": score(bits, 0.1)}, bits_kind=kind)


def test_the_fewest_bits_are_said_not_to_draw_best_where_they_do_not() -> None:
    exact, flow, ddpm = with_bits("autoregressive", 40, 1.6, "exact"), with_bits("flow", 15, 2.6), with_bits("ddpm", 12, 2.9)
    assert (
        "Likelihood is not quality: PixelCNN++ has the fewest bits per dimension that can be shown, 1.6 (1.5 to 1.7), and a "
        "Fréchet distance of 40 (39.5 to 40.5); lower distances with more bits: pixel DDPM (2.9) and flow (2.6)."
    ) in said(exact, flow, ddpm, made("gan", 5))
    assert "per dimension, 1.6" in said(exact, dataclasses.replace(flow, bits_kind="exact"))
    for others in (
        [with_bits("flow", 50, 2.6)],  # draws worse
        [with_bits("flow", 39.8, 2.6)],  # perhaps as well
        [with_bits("flow", 15, 1.7)],  # perhaps as few bits
        [made("gan", 5)],  # has none
        [],
    ):
        assert "Likelihood is not quality" not in said(exact, *others)


def test_memory_is_said_where_it_is() -> None:
    assert "No family draws clearly nearer" in said(made("vae"))
    scores = made("gan").scores | {"memorised": score(0.5), "copies": score(0.4)}
    told = said(made("vae"), made("gan", scores=scores))
    assert "GAN draws nearer to its training pictures than held-out pictures lie: 0.5 times their distance; 40 % of" in told
    assert "No family" not in told


def test_a_collapse_is_said() -> None:
    nothing = {"recall": score(0.002, 0.001)}
    gan = made("gan", scores=made("gan").scores | nothing)
    told = said(made("vae"), gan)
    assert "GAN has collapsed, or has hardly been trained: recall 0.002." in told
    assert "nothing of the family; the curves stand with the samples of it." in told
    assert "nothing of the family." in said(made("vae"), dataclasses.replace(gan, curves=()))
    assert "collapsed" not in said(made("vae"), made("gan"))
    both = findings([made("vae", scores=made("vae").scores | nothing), gan])
    assert both[0] == "No family has been trained enough to be compared: none covers the real pictures."
    assert sum("collapsed" in text for text in both) == 1
    assert any(
        text.startswith("VAE and GAN have collapsed, or have hardly been trained: recall 0.002 and 0.002.") for text in both
    )


def test_a_winner_that_remembers_is_told_from_the_best_that_does_not() -> None:
    remembers = {"memorised": score(0.5), "copies": score(0.0)}
    best = made("vqgan", scores=made("vqgan").scores | {"fd": score(1, 0.1)} | remembers)
    told = findings([made("ldm", scores=made("ldm").scores | {"fd": score(3, 0.1)}), best])[0]
    assert told.startswith("VQGAN + transformer has the lowest Fréchet distance, 1 (0.9 to 1.1)")
    assert told.endswith("than new ones lie; the best that does not is LDM (KL) with 3 (2.9 to 3.1).")
    assert "But" not in findings([best])[0]


def test_failures_and_unequal_conditions_are_said() -> None:
    broken = dataclasses.replace(made("flow"), status=DIVERGED, reason="not finite.", scores={}, num_samples=0)
    told = said(made("vae"), broken)
    assert "flow diverged: not finite." in told
    assert "not comparable" not in told
    assert "VAE on cuda (One); GAN on cuda (Two)" in said(made("vae"), made("gan", device="cuda (Two)"))
    assert "The budgets differ: VAE: 5 minutes; GAN: 1 minutes." in said(made("vae"), made("gan", minutes=1.0))
    other = made("gan", data={"fingerprint": "g", "size": 32})
    assert "The data differ: VAE: f at 32 px; GAN: g at 32 px." in said(made("vae"), other)
    assert "GAN made 700 samples in its time, others 2,000" in said(made("vae"), made("gan", num_samples=700))


def test_nothing_is_said_of_nothing() -> None:
    assert findings([]) == ["No family has a Fréchet distance yet."]


def test_numbers() -> None:
    assert [number(v) for v in (0.000123456, 0.5, 12.345, 123.4, 12345.6)] == ["0.000123", "0.5", "12.3", "123", "12,346"]
    assert span(score(2, 0.5)) == "2 (1.5 to 2.5)"
    assert names(["a"]) == "a"
    assert names(["a", "b", "c"]) == "a, b and c"
