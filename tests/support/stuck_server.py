"""Run as a program: serves a model or a predictor of which one call never returns; prints when it is made."""

import sys
import threading

from conjure.http import server as http_server
from conjure.http.generation.model_registry import ModelName
from conjure.http.server import address_of, listen
from conjure.serve import server
from conjure.serve.server import ServerSettings, run_predictor, run_server


def never(*_, **__):
    print("called", flush=True)
    threading.Event().wait()


class Predictor:
    def predict(self, payload):
        return payload


def main(stuck):
    http_server.DRAIN_S = http_server._ABORT_S = 0.2
    bound = listen("127.0.0.1", 0, has_key=False)
    print(address_of(bound), flush=True)
    settings = ServerSettings(models=[ModelName("sprite", "sprite")])
    if stuck in ("load_served_model", "resolve_model"):
        setattr(server, stuck, never)
        run_server(settings, bound, ready=print)
        return
    setattr(Predictor, stuck, never)
    run_predictor(Predictor(), settings, bound, ready=lambda *_: print("ready", flush=True))


if __name__ == "__main__":
    main(sys.argv[1])
