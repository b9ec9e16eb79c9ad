"""Every row through the Flask adapter, in process; `wsgiref.validate` looks at its outer side."""

from __future__ import annotations

import pytest
from flask import Flask

from exchanges.outcome import Recorder, check, check_record, check_seen
from exchanges.puppet import ToldToRaiseError
from exchanges.puppet_flask import FlaskPuppet
from exchanges.puppet_starlette import EVERY_METHOD
from exchanges.table import Exchange, rows
from exchanges.world import World
from exchanges.wsgi_server import call, environ_of, is_valid
from secmiddleware.errors import BrokenOffError
from secmiddleware_flask import SecMiddleware


def reason(row: Exchange) -> str | None:
    """Why a row cannot be run here, if it cannot."""
    if "wsgi" in row.elsewhere:
        return row.elsewhere["wsgi"]
    if row.app.does in ("overrun", "restart"):
        return "a view returns one response"
    if row.app.does == "unfinished" and "content-length" not in dict(row.app.headers):
        return "a response that comes to its end is whole, unless it has said that it is longer"
    return None


RUN_HERE = [row for row in rows() if reason(row) is None]


class Stage:
    """An app for each of the settings, made once, and the one puppet in all of them."""

    def __init__(self, world: World) -> None:
        self.puppet, self.recorder = FlaskPuppet(), Recorder()
        self._world = world
        self._apps: dict[str, Flask] = {}

    def app(self, config: str) -> Flask:
        if config not in self._apps:
            app = Flask(__name__, static_folder=None)
            app.config["SECMIDDLEWARE"] = self._world.manager(config)
            for rule in ("/", "/<path:rest>"):
                app.add_url_rule(
                    rule, "view", self.puppet.view, methods=EVERY_METHOD, provide_automatic_options=False
                )
            SecMiddleware(app, observer=self.recorder)
            self._apps[config] = app
        return self._apps[config]


@pytest.fixture(scope="module")
def stage(world: World) -> Stage:
    return Stage(world)


@pytest.mark.parametrize("row", RUN_HERE, ids=lambda row: row.name)
def test_a_row_comes_out_as_expected(world: World, stage: Stage, row: Exchange) -> None:
    stage.puppet.play(world, row)
    stage.recorder.records.clear()
    environ = environ_of(world, row)
    outcome, raised = call(stage.app(row.config), environ, validated=is_valid(row, environ))
    assert raised is None or isinstance(raised, ToldToRaiseError | BrokenOffError)
    check(world, row, outcome)
    check_seen(world, row, stage.puppet.seen)
    (record,) = stage.recorder.records
    check_record(row, record)
    if row.app.does in ("raise", "silent"):
        assert record.error is not None


def test_what_is_not_run_here_has_a_reason_and_is_little() -> None:
    missing = [row for row in rows() if row not in RUN_HERE]
    assert len(missing) < 0.03 * len(rows()), [row.name for row in missing]
