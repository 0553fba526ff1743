"""The texts that the servers are asked for, written by the library: what a server can give at most."""

import time

from exchange import answer, prompts, task

from conjure.lm.generation.engine_loading import LoadedEngine, load_engine
from conjure.lm.generation.generate import Token, stream
from conjure.lm.generation.request import GenerationRequest
from conjure.recipes.resource_lookup import model_lookup


def speeds(writer: LoadedEngine, texts: list[str], new: int, times: int) -> list[float]:
    """Tokens per second, from the request to the last token, so many times."""
    request = GenerationRequest(prompts=texts, max_new_tokens=new, temperature=1.0, top_k=50, seed=1)
    found = []
    for _ in range(times + 1):
        started = time.perf_counter()
        tokens = sum(isinstance(event, Token) for event in stream(writer.engine, writer.tokenizer, request))
        found.append(tokens / (time.perf_counter() - started))
    return found[1:]


def main() -> None:
    assigned = task()
    found, context = {}, 0
    for rows, times in assigned["times"].items():
        writer = load_engine(assigned["model"], rows=int(rows), lookups=[model_lookup])
        context = writer.engine.context_length
        texts = prompts(assigned, "text", int(rows), assigned["prompt"])
        found[rows] = speeds(writer, texts, assigned["new"], times)
    answer(context=context, speeds=found)


if __name__ == "__main__":
    main()
