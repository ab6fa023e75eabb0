"""``dp-fedavg``: FedAvg of sites that train by DP-SGD (Abadi et al. 2016), so that their weights have a guarantee."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg, Strategy

from fedkr.config import Count, Positive, Study, at_most, check_values, own_search, read_dataclass
from fedkr.errors import UserError
from server.contestant import Federation, Outcome
from server.weight_sharing import WeightSharing
from server.weights_search import Candidate, Plan


@dataclass
class DpOptions:
    """What its sites do beside the usual options.

    Attributes:
        clip: the most that one unit's gradient counts for, in its L2 norm.
        batch: units a step, in the mean; all of them at a site that has no more.
    """

    clip: Positive = 1.0
    batch: Annotated[Count, at_most(65_536)] = 400


OWN = tuple(field.name for field in dataclasses.fields(DpOptions))


class Contestant(WeightSharing):
    """FedAvg over all sites that share weights, each of which trains by DP-SGD.

    What a site sends in all rounds together is (``privacy.epsilon``, ``privacy.delta``)-DP for one image, or one
    patient where the data name patients, more or less in its training split. The number of its images is taken as
    known: FedAvg weighs by it. Nothing is chosen on val: one setting is run, to its last round.
    """

    flower = FedAvg

    @classmethod
    def check(cls, name: str, options: Mapping[str, Any], study: Study) -> None:
        """See :meth:`server.contestant.Contestant.check`."""
        super().check(name, options, study)
        where, search = f"strategy.options.{name}", own_search(name, options, study.strategy)
        if search.norms != ["group"]:
            raise UserError(
                f"{where}.norms={search.norms}: a batch's norm makes one gradient of all its images; [group]"
            )
        if len(search.lrs) > 1 or len(search.local_epochs) > 1:
            raise UserError(f"{where}: each setting that is tried costs privacy; name one of lrs and of local_epochs")

    def __init__(self, name: str, options: Mapping[str, Any], federation: Federation) -> None:
        super().__init__(name, {option: value for option, value in options.items() if option not in OWN}, federation)
        self.private = _own(name, options)

    @classmethod
    def make(cls, name: str, options: Mapping[str, Any], sites: int) -> Strategy:
        """See :meth:`server.weight_sharing.WeightSharing.make`."""
        _own(name, options)
        return super().make(name, {option: value for option, value in options.items() if option not in OWN}, sites)

    def _keeps_by_val(self, plan: Plan) -> bool:
        return False

    def _round_config(self, candidate: Candidate, number: int, length: int) -> ConfigRecord:
        # The noise is that of the most rounds, whatever the steps allow.
        told = {"clip": self.private.clip, "private-batch": self.private.batch, "rounds": self.search.rounds}
        return ConfigRecord({**super()._round_config(candidate, number, length), **told})

    def _outcome(self) -> Outcome:
        outcome, privacy = super()._outcome(), self.study.privacy
        tuning = {**outcome.tuning, "epsilon": privacy.epsilon, "delta": privacy.delta}
        said = (
            f"{self.name}: what a site sent in all rounds is ({privacy.epsilon:g}, {privacy.delta:g})-differentially "
            "private for one image, or patient where the data name patients, more or less in its training split; how "
            "many images it has is taken as known, and figures on val and test are not covered"
        )
        return dataclasses.replace(outcome, tuning=tuning, notes=[*outcome.notes, said])


def _own(name: str, options: Mapping[str, Any]) -> DpOptions:
    where = f"strategy.options.{name}"
    own = read_dataclass(DpOptions, {option: options[option] for option in OWN if option in options}, where)
    check_values(own, where)
    return own
