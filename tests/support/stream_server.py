"""Run as a program: serves streams that last, to be ended by signals; prints what it was told."""

import asyncio
import sys

from starlette.routing import Route

from conjure.http.access_control import AccessRules
from conjure.http.application import application
from conjure.http.event_stream import EventStream, event
from conjure.http.server import HttpServer, Shutdown, address_of, listen


def main():
    draining, aborted = asyncio.Event(), asyncio.Event()

    async def events():
        """Ends by itself once the server drains, or only when it is made to."""
        yield event({"text": "begun"})
        await (draining if sys.argv[1] == "short" else aborted).wait()
        yield event({"text": "ended"})

    async def stream(request):
        return EventStream(events())

    def drain():
        print("drain", flush=True)
        draining.set()

    def abort():
        print("abort", flush=True)
        aborted.set()

    bound = listen("127.0.0.1", 0, has_key=False)
    app = application([Route("/stream", stream)], AccessRules())
    server = HttpServer(app, bound, Shutdown(drain, abort))
    server.run(lambda: print(address_of(bound), flush=True))
    print("over", flush=True)


if __name__ == "__main__":
    main()
