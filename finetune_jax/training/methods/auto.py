"""Rates that nobody has to choose: how far the pretrained parts should move is found in rehearsals before training.

Our own. A rehearsal is the run in small: a few steps under a cosine of their own, measured on training images that were
left out. A constant rate would be misjudged, since what the fall of the rates brings at the end of a run would be
missing.

A fresh head has to be learnt in any case. Within few steps a large rate for all parts looks good for the head alone,
even where it destroys the features that the head needs: so judged, rates came out ten times too large where the
pretrained features were already right. Therefore:

1. The head learns alone, at ten times ``--learning_rate``. Where it ends with a higher loss than it began with, no
   rehearsal tells anything through it. Then the run starts from a linear probe (``runs.probe_start``), and the climb is
   over one rate for all parts, from a thirtieth of ``--learning_rate``, in three rehearsals. Where there is no such
   probe (labels that are not classes, no pretrained weights), the head begins anew, half a decade lower each time.
2. From there a climb over one rate for all other parts, half a decade at a time, the head going on at its own.
3. The smallest rate whose loss is within one per cent of the lowest is taken, since a run is longer than a rehearsal
   and moves further at the same rate.
4. Where that is below ``--learning_rate``, the features are nearly right, and a head that learns from scratch at ten
   times ``--learning_rate`` would disturb them: in the run it learns ten times as fast as the rest, not more, and
   never faster than in the rehearsals.
"""

import dataclasses
import math
from collections.abc import Mapping

from finetune_jax.algorithms import rate_search
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.training import rate_finder
from finetune_jax.training.methods.method import RateChoice
from finetune_jax.training.methods.plain import Standard
from finetune_jax.training.rehearsal import Rates, Rehearsals

_FACTOR = math.sqrt(10)
_HEAD_FACTOR = 10.0
_SHARE_OF_HEAD, _SHARE = 0.16, 0.48  # of the steps of the run
_MOST = 4  # rehearsals
_MOST_HEADS = 5
# A head that fits already bears less, and the run is to cost no more.
_PROBE_DIVISOR, _MOST_FROM_PROBE = 10**1.5, 3
_FEWEST_STEPS, _MOST_STEPS = 8, 100
_TIE = 0.01


@dataclasses.dataclass(frozen=True)
class Auto(Standard):
    """All parts are trained, at rates found before training."""

    def find(self, config: FinetuneConfig, rehearsals: Rehearsals) -> RateChoice:
        """The rate of all parts but the head.

        Raises:
            UserError: training diverged at every rate.
        """
        trained = tuple(rehearsals.state.params)
        start = number(config.learning_rate)
        head_rate = float(f"{_HEAD_FACTOR * start:.3g}")

        def peaks(rate: float) -> Rates:
            changed = dataclasses.replace(config, head_learning_rate=head_rate)
            return rate_finder.rates_at(changed, lambda config: self.tuner(config, trained), rate)

        untrained, head_rates, learned = rehearsals.judge(), list[float](), False
        while not learned and len(head_rates) < _MOST_HEADS:
            if head_rates:
                head_rate = float(f"{head_rate / _FACTOR:.2g}")
            head_rates.append(head_rate)
            alone = {
                name: rate if name == "head" or name not in self.trained else 0.0
                for name, rate in peaks(start).items()
            }
            with_head = rehearsals.after(alone, _steps(_SHARE_OF_HEAD * rehearsals.steps_of_run))
            learned = with_head.judge() <= untrained
            if not learned and rehearsals.from_probe is not None:
                return self._from_probe(config, rehearsals.from_probe(), start)
        steps = _steps(_SHARE * rehearsals.steps_of_run / _MOST)
        losses = rate_search.climb(
            lambda rate: with_head.run(peaks(rate), steps).loss, start, factor=_FACTOR, most=_MOST
        )
        rate = _chosen(losses)
        of_head = min(head_rate, float(f"{_HEAD_FACTOR * min(rate, start):.3g}"))
        reason = (
            f"{rate:g}, and {of_head:g} for the head; the smallest within {100 * _TIE:g} % of the lowest loss in "
            f"{len(losses)} trials of {steps} steps, on {len(rehearsals.held_out)} training images that these left out"
        )
        notes = () if learned else (_nothing_learned(head_rates, start),)
        return RateChoice({"learning_rate": rate, "head_learning_rate": of_head}, reason, notes)

    def _from_probe(self, config: FinetuneConfig, rehearsals: Rehearsals, start: float) -> RateChoice:
        """One rate for all parts of a run whose head is a linear probe."""
        trained = tuple(rehearsals.state.params)
        steps = _steps(_SHARE * rehearsals.steps_of_run / _MOST)

        def loss(rate: float) -> float:
            peaks = rate_finder.rates_at(config, lambda config: self.tuner(config, trained), rate)
            return rehearsals.run(peaks, steps).loss

        losses = rate_search.climb(loss, start / _PROBE_DIVISOR, factor=_FACTOR, most=_MOST_FROM_PROBE)
        rate = _chosen(losses)
        reason = (
            f"{rate:g} for all parts, from a linear probe, since the head alone ended worse than it began; the "
            f"smallest within {100 * _TIE:g} % of the lowest loss in {len(losses)} trials of {steps} steps, on "
            f"{len(rehearsals.held_out)} training images that these left out"
        )
        return RateChoice({"learning_rate": rate, "from_probe": True}, reason)


def _chosen(losses: Mapping[float, float]) -> float:
    if not any(map(math.isfinite, losses.values())):
        raise UserError(
            f"--method=auto: training diverged at all rates from {min(losses):g} to {max(losses):g}; give a lower "
            "--learning_rate to start from, or check the images with finetune-jax check_data"
        )
    return float(f"{rate_search.smallest_within(losses, _TIE):.2g}")


def _nothing_learned(head_rates: list[float], start: float) -> str:
    return (
        f"--method=auto: the head alone ended worse than it began at all of {len(head_rates)} rates, from "
        f"{head_rates[0]:g} down to {head_rates[-1]:g}, so the rates were compared through a head that had learnt "
        "nothing. Look at the linear probe and at --method=feature_extractor first, or begin with a lower "
        f"--learning_rate than {start:g}."
    )


def _steps(steps: float) -> int:
    return int(min(max(steps, _FEWEST_STEPS), _MOST_STEPS))
