"""What a page can do to runs: stop, kill, label, archive, rerun.

Main entry: `act`. Invariant: without ``--allow-actions`` nothing is done; what is done is what the command
line's commands do, by the same calls.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from conjure.core.home import Home
from conjure.errors import NotFoundError, UsageError
from conjure.http.errors import HttpError, bad_value
from conjure.http.request_body import read_json_object
from conjure.recipes.lazy_model_checks import changed_model_notes
from conjure.runs.database.base import KILL, STOP
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.stop_requests import end_runs, request_end
from conjure.runs.lifecycle.submission import rerun
from conjure.runs.schema.spec import label_fault
from conjure.web.site import Site

_LARGEST_BODY = 1 << 16
_MOST_RUNS = 1000


async def act(request: Request) -> Response:
    """Do one thing to some runs, as ``{"action": …, "runs": [3, 5], "label": …}`` asks."""
    site: Site = request.app.state.site
    if not site.allow_actions:
        raise HttpError(403, "this page is read-only; to change runs, start it with --allow-actions")
    asked = await read_json_object(request, most_bytes=_LARGEST_BODY)
    unknown = sorted(asked.keys() - {"action", "runs", "label"})
    if unknown:
        raise bad_value(unknown[0], "is not a field; allowed: action, runs, label")
    action = _ACTIONS.get(str(asked.get("action")))
    if action is None:
        raise bad_value("action", f"must be one of {', '.join(_ACTIONS)}")
    told = await run_in_threadpool(action, site.home, _numbers(asked.get("runs")), asked.get("label"))
    return JSONResponse(told)


def _numbers(given: Any) -> list[int]:
    if not isinstance(given, list) or not 1 <= len(given) <= _MOST_RUNS:
        raise bad_value("runs", f"must be a list of 1 to {_MOST_RUNS} numbers")
    if any(type(each) is not int or not 0 < each < 1 << 63 for each in given):
        raise bad_value("runs", "must contain numbers of runs")
    return list(dict.fromkeys(given))


def _end(what: str) -> Callable[[Home, Sequence[int], Any], dict[str, Any]]:
    def end(home: Home, numbers: Sequence[int], _label: Any) -> dict[str, Any]:
        with open_store(home) as store:
            for number in numbers:
                store.facts(number)
            asked = [number for number in numbers if request_end(store, number, what)]
        # Sees to a supervisor that does not hear, which takes its time.
        threading.Thread(target=end_runs, args=(home, asked, what), daemon=True).start()
        return {"runs": asked}

    return end


def _archive(*, archived: bool) -> Callable[[Home, Sequence[int], Any], dict[str, Any]]:
    def archive(home: Home, numbers: Sequence[int], _label: Any) -> dict[str, Any]:
        with open_store(home) as store:
            for number in numbers:
                store.set_archived(number, archived=archived)
        return {"runs": list(numbers)}

    return archive


def _label(home: Home, numbers: Sequence[int], label: Any) -> dict[str, Any]:
    name = _checked(label)
    with open_store(home) as store:
        for number in numbers:
            store.add_label(number, name)
    return {"runs": list(numbers)}


def _unlabel(home: Home, numbers: Sequence[int], label: Any) -> dict[str, Any]:
    name, done = _checked(label), []
    with open_store(home) as store:
        for number in numbers:
            if name in store.get(number).labels:
                store.remove_label(number, name)
                done.append(number)
    if not done:
        raise NotFoundError(f"none of these runs has a label {name!r}")
    return {"runs": done}


def _rerun(home: Home, numbers: Sequence[int], _label: Any) -> dict[str, Any]:
    if len(numbers) > 1:
        raise UsageError("runs are repeated one at a time")
    notes = changed_model_notes(home, numbers[0])
    return {"runs": [rerun(home, numbers[0]).record.number], "notes": notes}


def _checked(label: Any) -> str:
    fault = label_fault(label) if isinstance(label, str) else "label must be a string"
    if fault is not None:
        raise UsageError(fault)
    return label


_ACTIONS: dict[str, Callable[[Home, Sequence[int], Any], dict[str, Any]]] = {
    "stop": _end(STOP),
    "kill": _end(KILL),
    "label": _label,
    "unlabel": _unlabel,
    "archive": _archive(archived=True),
    "unarchive": _archive(archived=False),
    "rerun": _rerun,
}
