"""Two tiny apps in the place of fedkr's own: the study's generator options say how they misbehave."""

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client_app = ClientApp()
server_app = ServerApp()


def site_number(node_config):
    if "site-file" in node_config:
        return int(Path(str(node_config["site-file"])).parent.name.removeprefix("site-"))
    return int(node_config["partition-id"])


@client_app.train("tiny")
def train(message, context):
    return Message(RecordDict({"m": MetricRecord({"site": site_number(context.node_config)})}), reply_to=message)


@server_app.main()
def main(grid, context):
    study, run_dir = json.loads(str(context.run_config["study"])), Path(str(context.run_config["run-dir"]))
    options, folder = study["generator"]["options"], run_dir / "server"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "started").touch()
    if options.get("wait"):
        time.sleep(60)
    while len(nodes := sorted(grid.get_node_ids())) < study["federation"]["sites"]:
        time.sleep(0.1)
    time.sleep(float(options.get("linger", 0)))
    messages = [Message(RecordDict({"c": ConfigRecord()}), node, "train.tiny") for node in nodes]
    sites = sorted(int(reply.content["m"]["site"]) for reply in grid.send_and_receive(messages))
    (folder / "sites.json").write_text(json.dumps(sites))
