"""transformers' `generate`, greedy, with its key/value cache."""

import time

import torch
from exchange import answer, decode_and_prefill, task
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList


class Moments(StoppingCriteria):
    """Stops nothing; notes when it is asked, which is after every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def main() -> None:
    assigned = task()
    dtype = getattr(torch, assigned["dtype"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(assigned["checkpoint"], dtype=dtype).to(device).eval()

    def write(prompts: list[list[int]], count: int) -> list[float]:
        ids = torch.tensor(prompts, device=device)
        moments = Moments()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([moments]),
        )
        return moments.times

    answer(**decode_and_prefill(assigned, "ids", write))


if __name__ == "__main__":
    main()
