"""``dp-fedavg``: FedAvg of sites that train by DP-SGD (Abadi et al. 2016), so that their weights have a guarantee."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg, Strategy

from fedkr.config import DP_SGD_OPTIONS, Study, dp_sgd, own_search
from fedkr.errors import UserError
from server.contestant import Outcome
from server.weight_sharing import WeightSharing
from server.weights_search import Candidate, Plan


class Contestant(WeightSharing):
    """FedAvg over all sites that share weights, each of which trains by DP-SGD.

    What a site sends in all rounds together is (``privacy.epsilon``, ``privacy.delta``)-DP for one image, or one
    patient where the data name patients, present in its training split or absent. How many images and patients it has
    is taken as known: FedAvg weighs by the one, the noise goes by the other. Nothing is chosen on val: one setting is
    run, to its last round.
    """

    flower = FedAvg

    @classmethod
    def check(cls, name: str, options: Mapping[str, Any], study: Study) -> None:
        """See :meth:`server.contestant.Contestant.check`."""
        super().check(name, options, study)
        where, search = f"strategy.options.{name}", own_search(name, options, study.strategy)
        if search.norms != ["group"]:
            raise UserError(
                f"{where}.norms={search.norms}: a batch's norm makes one gradient of all its images; take [group]"
            )
        if len(search.lrs) > 1 or len(search.local_epochs) > 1:
            raise UserError(f"{where}: each setting that is tried costs privacy; name one of lrs and of local_epochs")

    @classmethod
    def make(cls, name: str, options: Mapping[str, Any], sites: int) -> Strategy:
        """See :meth:`server.weight_sharing.WeightSharing.make`."""
        dp_sgd(name, options)
        flowers = {option: value for option, value in options.items() if option not in DP_SGD_OPTIONS}
        return super().make(name, flowers, sites)

    @property
    def batch(self) -> int:
        """Images a step, in the mean."""
        return dp_sgd(self.name, self.keywords).batch

    def _keeps_by_val(self, plan: Plan) -> bool:
        return False

    def _round_config(self, candidate: Candidate, number: int, length: int) -> ConfigRecord:
        return ConfigRecord({**super()._round_config(candidate, number, length), "contestant": self.name})

    def _outcome(self) -> Outcome:
        outcome, privacy = super()._outcome(), self.study.privacy
        tuning = {**outcome.tuning, "epsilon": privacy.epsilon, "delta": privacy.delta}
        said = (
            f"{self.name}: what a site sent in all rounds is ({privacy.epsilon:g}, {privacy.delta:g})-differentially "
            "private for one image, or patient where the data name patients, in its training split; how many it has is "
            "taken as known, and figures on val and test are not covered"
        )
        return dataclasses.replace(outcome, tuning=tuning, notes=[*outcome.notes, said])
