from __future__ import annotations

from typing import Any

import pytest

from gpuq.errors import NotAuthenticated, Unreachable
from tests.tui.clusters import ServedClient, busy, changes, ended, hostile, job, node, running, snapshot, waiting
from tests.tui.desk import desk, played
from tui.app import DashboardApp
from tui.body import PARTS, VIEWS
from tui.deeds import ON_JOBS, ON_NODES
from tui.dialogs import ConfirmDialog
from tui.help import HelpDialog
from tui.keymap import ACTIONS, CHAINS, actions_in

SIZES = [(40, 10), (60, 20), (80, 24), (100, 30), (160, 45), (240, 70)]


def served(**given: Any) -> ServedClient:
    rows = [running(9, "n1", name="llama"), waiting(8, name="eval", user="bob"), waiting(7, name="tok")]
    return ServedClient(snapshot(rows, [node("n1"), node("n2")], **given))


@played
async def test_the_first_frame_does_not_wait_for_the_controller() -> None:
    async def connect() -> ServedClient:
        raise Unreachable("no route")

    app = DashboardApp(connect, "prod-a", view="jobs")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert app.is_running
        await pilot.press("j", "2", "escape")


@played
async def test_a_token_that_is_refused_ends_it_with_the_reason() -> None:
    client = served()
    client.failure = NotAuthenticated("this token is not known")

    async def connect() -> ServedClient:
        return client

    app = DashboardApp(connect, "prod-a")
    async with app.run_test(size=(80, 24)) as pilot:
        for _ in range(200):
            if app.refused is not None:
                break
            await pilot.pause(0.01)
    assert app.refused is not None
    assert app.refused.message == "this token is not known"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("document", [busy(100, 40), hostile(), snapshot([])], ids=["busy", "hostile", "empty"])
def test_every_view_can_be_shown_at_every_size_with_anything_in_it(
    document: dict[str, Any], size: tuple[int, int]
) -> None:
    @played
    async def shown() -> None:
        async with desk(ServedClient(document), size=size) as found:
            for view in VIEWS:
                found.app.open_view(view)
                await found.until(lambda view=view: found.app._body.pane(view).is_mounted)  # type: ignore[misc]
                assert "gpuq" in found.screen()[0]
                assert len(found.screen()) == size[1]

    shown()


# Each row of the keymap once, in the first pane that has it.
KEYS = {
    context: [
        action
        for action in ACTIONS
        if context == next((name for name in PARTS if action.context in CHAINS[name]), None)
        and action.id not in ("quit", "back", "submit", "clone")
    ]
    for context in PARTS
}


@pytest.mark.parametrize("context", [context for context, actions in KEYS.items() if actions and context != "submit"])
def test_every_key_of_the_table_does_something_and_breaks_nothing(context: str) -> None:
    @played
    async def pressed() -> None:
        async with desk(ServedClient(busy(60, 10)), size=(120, 40)) as found:
            app = found.app
            for action in KEYS[context]:
                while len(app.screen_stack) > 1:  # what a key opened must not catch the next one
                    app.pop_screen()
                go_to(app, context)
                await found.until(lambda: str(app._pane.CONTEXT) == context)
                await found.keys(action.keys[0])
                assert app.is_running, f"{action.id} ended it"

    pressed()


def go_to(app: DashboardApp, context: str) -> None:
    if context in VIEWS:
        app.open_view(context)
    elif context == "job":
        app.open_job("60")
    elif context == "node":
        app.open_node("n0001")
    else:
        app.open_log("60")


@played
async def test_every_action_of_the_table_is_somebodys() -> None:
    """A method of a pane, of what is in it, or of the app; or a deed on jobs or nodes."""
    async with desk(served(), size=(160, 45)) as found:
        panes = {name: found.app._body.pane(name) for name in PARTS}
        await found.until(lambda: all(pane.is_mounted for pane in panes.values()))
        missing = []
        for context, pane in panes.items():
            have = [found.app, pane, *pane.query("*")]
            for action in actions_in(context):
                known = any(hasattr(widget, f"do_{action.id}") for widget in have)
                if not (known or action.id in {*ON_JOBS, *ON_NODES} or action.id.startswith("view_")):
                    missing.append((context, action.id))
    assert missing == [], missing


@played
async def test_help_shows_the_pane_it_was_asked_in() -> None:
    async with desk(served()) as found:
        await found.keys("question_mark")
        await found.until(lambda: isinstance(found.app.screen, HelpDialog))
        await found.shows("Help: jobs")
        await found.keys("escape")
        await found.until(lambda: not isinstance(found.app.screen, HelpDialog))


@played
async def test_the_filter_narrows_with_each_key_and_escape_takes_it_back() -> None:
    async with desk(served()) as found:
        await found.shows("llama")
        await found.keys("slash", *"eval")
        await found.shows("1 of 3 jobs")
        await found.keys("escape")
        await found.shows("3 of 3 jobs")
        await found.keys("slash", *"user", "equals_sign", *"bob", "enter")
        await found.shows("1 of 3 jobs")
        await found.keys("escape")
        await found.shows("3 of 3 jobs")


@played
async def test_a_filter_that_cannot_be_read_says_why_while_it_is_typed() -> None:
    async with desk(served()) as found:
        await found.keys("slash", *"gpu", "greater_than_sign")
        await found.shows("gpu> needs a value")


@played
async def test_cancel_asks_first_and_the_focus_is_on_no() -> None:
    client = served()
    async with desk(client) as found:
        await found.shows("llama")
        await found.keys("x")
        await found.until(lambda: isinstance(found.app.screen, ConfirmDialog))
        await found.keys("enter")
        await found.until(lambda: not isinstance(found.app.screen, ConfirmDialog))
        assert client.posted == []
        await found.keys("x")
        await found.until(lambda: isinstance(found.app.screen, ConfirmDialog))
        await found.keys("y")
        await found.until(lambda: client.posted)
        assert client.posted == [("POST", "/jobs/cancel", {"ids": ["9"]})]


@played
async def test_marked_jobs_are_canceled_together() -> None:
    client = served()
    async with desk(client) as found:
        await found.shows("llama")
        await found.keys("asterisk", "x")
        await found.until(lambda: isinstance(found.app.screen, ConfirmDialog))
        await found.keys("y")
        await found.until(lambda: client.posted)
        assert client.posted[0][2] == {"ids": ["9", "8", "7"]}


@pytest.mark.parametrize(("role", "flag"), [("viewer", False), ("admin", True)])
def test_who_may_change_nothing_is_offered_nothing(role: str, flag: bool) -> None:
    @played
    async def looked() -> None:
        client = served(role=role)
        async with desk(client, read_only=flag) as found:
            await found.shows("llama")
            assert "cancel" not in found.screen()[-1]
            await found.keys("x")
            assert not isinstance(found.app.screen, ConfirmDialog)
            await found.keys("question_mark")
            await found.shows("Help: jobs")
            assert "cancel" not in "\n".join(found.screen())

    looked()


@played
async def test_offline_all_stays_readable_and_says_since_when_and_until_when() -> None:
    client = served()
    async with desk(client) as found:
        await found.shows("llama")
        client.failure = Unreachable("no route to the controller")
        client.tell(changes(101))
        await found.shows("OFFLINE")
        assert "retry in" in found.screen()[0]
        await found.shows("llama")
        await found.keys("x")
        await found.shows("not while offline")
        client.failure = None
        client.tell(changes(102, [job(10, name="fresh")]))
        await found.shows("fresh")
        await found.until(lambda: "OFFLINE" not in found.screen()[0])


@played
async def test_paused_the_screen_stands_still_and_what_waits_is_counted() -> None:
    client = served()
    async with desk(client) as found:
        await found.shows("llama")
        await found.keys("p")
        client.tell(changes(101, [job(10, name="fresh")]))
        await found.shows("PAUSED")
        await found.until(lambda: found.app.store.at == 101)
        assert not any("fresh" in line for line in found.screen())
        await found.keys("p")
        await found.shows("fresh")


@played
async def test_sorting_by_letter_and_the_other_way_round() -> None:
    async with desk(served()) as found:
        await found.shows("llama")
        await found.keys("o", "n")
        await found.shows("NAME^")
        names = [line.split()[3 if line.startswith(">") else 2] for line in found.screen()[4:7]]
        assert names == ["eval", "llama", "tok"]
        await found.keys("O")
        await found.shows("NAMEv")


@played
async def test_enter_opens_escape_leaves_and_the_trail_remembers() -> None:
    async with desk(served()) as found:
        await found.shows("llama")
        await found.keys("enter")
        await found.until(lambda: found.app._pane.CONTEXT == "job")
        await found.keys("escape")
        await found.until(lambda: found.app._pane.CONTEXT == "jobs")
        await found.keys("3")
        await found.until(lambda: found.app._pane.CONTEXT == "nodes")
        await found.keys("minus")
        await found.until(lambda: found.app._pane.CONTEXT == "jobs")


@played
async def test_beside_the_list_the_detail_follows_the_cursor() -> None:
    async with desk(served(), size=(120, 30)) as found:
        await found.shows("llama")
        detail: Any = found.app._body.pane("job")
        await found.until(lambda: detail.subject() and detail.subject().id == "9")
        await found.keys("j")
        await found.until(lambda: detail.subject().id == "8")


@played
async def test_on_a_terminal_that_is_too_small_one_line_says_how_things_are() -> None:
    async with desk(served(), size=(30, 5)) as found:
        await found.shows("1 active 2 queued")


@played
async def test_in_ascii_nothing_else_reaches_the_terminal() -> None:
    async with desk(ServedClient(hostile()), size=(120, 40), ascii=True) as found:
        for view in VIEWS:
            found.app.open_view(view)
            await found.until(lambda view=view: found.app._body.pane(view).is_mounted)  # type: ignore[misc]
            strips = found.app.screen._compositor.render_strips()
            filters = found.app.get_line_filters()
            for strip in strips:
                for filter in filters:
                    strip = strip.apply_filter(filter, found.app.screen.background_colors[1])
                assert strip.text.isascii()


@played
async def test_every_theme_can_be_chosen_and_an_unknown_one_is_one_line() -> None:
    async with desk(served()) as found:
        for theme in ("light", "high-contrast", "ansi-dark", "ansi-light", "dark"):
            await found.command(f"theme {theme}")
            await found.until(lambda theme=theme: found.app.theme == theme)  # type: ignore[misc]
            await found.shows("llama")
        await found.command("theme pink")
        await found.shows("there is no theme 'pink'")


async def run_until_it_ends(app: DashboardApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        for _ in range(200):
            await pilot.pause(0.01)
            if app.crash is not None:
                return


@played
async def test_a_defect_ends_it_and_is_handed_on_without_being_printed() -> None:
    async def connect() -> ServedClient:
        raise ZeroDivisionError("planted")

    app = DashboardApp(connect, "prod-a", view="jobs")
    with pytest.raises(ZeroDivisionError):
        await run_until_it_ends(app)
    assert isinstance(app.crash, ZeroDivisionError)
    assert app._exit_renderables == []


@pytest.mark.parametrize("before", [("s",), ("slash",), ("colon",), ("question_mark",), ("x",)])
@played
async def test_ctrl_q_quits_whatever_is_open(before: tuple[str, ...]) -> None:
    async with desk(ServedClient(snapshot([running(7)]))) as found:
        await found.keys(*before, "ctrl+c")
        assert found.app.is_running
        await found.keys("ctrl+q")
        await found.until(lambda: not found.app.is_running)


@played
async def test_the_form_takes_what_is_typed_each_time_it_is_opened() -> None:
    async with desk(ServedClient(snapshot([running(7)]))) as found:
        for way in (("s",), ("enter", "s"), ("2", "s")):
            await found.keys(*way, *"zqz")
            assert "Command" in await found.shows(" zqz")
            await found.keys("backspace", "backspace", "backspace", "escape")


@played
async def test_the_priority_of_a_job_that_has_ended_is_not_asked_for() -> None:
    async with desk(ServedClient(snapshot([ended(7)]))) as found:
        await found.keys("P")
        await found.shows("7 has ended (SUCCEEDED)")


@pytest.mark.parametrize("name", ["logs 7", "show 7", "ls", "ov"])
@played
async def test_commands_go_by_the_names_they_have_elsewhere(name: str) -> None:
    async with desk(ServedClient(snapshot([running(7)]))) as found:
        await found.command(name)
        assert not any("there is no command" in line for line in found.screen())
