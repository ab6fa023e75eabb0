"""The Flower ClientApp of one site: the same in simulation and in a hospital."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedkr import wire
from fedkr.config import parse_study
from sites.guard import guard
from sites.handlers import HANDLERS
from sites.workspace import open_site

app = ClientApp(mods=[guard])


def answer(message: Message, context: Context) -> Message:
    """Open the site for the request's study and answer by the handler of the message's type."""
    request = wire.read_request(message)
    site = open_site(context.node_config, parse_study(request.study))
    content = HANDLERS[message.metadata.message_type](site, request)
    return Message(content, reply_to=message)


app.query("describe")(answer)
app.train("local")(answer)
app.train("personalise")(answer)
app.train("finetune")(answer)
app.train("release")(answer)
app.train()(answer)
app.evaluate()(answer)
app.train("references")(answer)
app.evaluate("audit")(answer)
app.evaluate("compare")(answer)
