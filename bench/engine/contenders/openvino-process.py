"""Runs OpenVINO GenAI for openvino.ts: requests are JSON lines on standard input, answers those on descriptor 3."""

import json
import os
import sys
import time

import numpy
import openvino
import openvino_genai

# A prompt of 512 is read in one step. The cache has no fixed size: it grows as sequences do.
MAX_NUM_BATCHED_TOKENS = 512


class Engine:
    """One model: a pipeline with continuous batching, and the bare graph for log-probabilities."""

    def __init__(self, model, threads, maxSequences):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = MAX_NUM_BATCHED_TOKENS
        scheduler.max_num_seqs = maxSequences
        scheduler.enable_prefix_caching = False
        self._model = model
        self._properties = {"INFERENCE_NUM_THREADS": threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            model, scheduler_config=scheduler, device="CPU", properties=self._properties
        )
        self._num_requests = 0

    def generate(self, prompts, newTokens):
        """Continues all prompts at once; returns when the first new token of each was there, in milliseconds."""
        start = time.perf_counter()
        config = openvino_genai.GenerationConfig(max_new_tokens=newTokens, ignore_eos=True, do_sample=False)
        handles = [self._add(prompt, config) for prompt in prompts]
        first_ms = [None] * len(handles)
        waiting = list(range(len(handles)))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            arrived = [index for index in waiting if handles[index].can_read()]
            for index in arrived:
                first_ms[index] = (time.perf_counter() - start) * 1000
            waiting = [index for index in waiting if first_ms[index] is None]
        for handle in handles:
            (answer,) = handle.read_all()
            if len(answer.generated_ids) != newTokens:
                raise ValueError(f"Expected {newTokens} new tokens, got {len(answer.generated_ids)}")
        return first_ms

    def _add(self, prompt, config):
        self._num_requests += 1
        return self._pipeline.add_request(self._num_requests, openvino.Tensor(int64([prompt])), config)

    def log_probabilities(self, sequences):
        """Sums each sequence's log-probabilities of all tokens but the first: the pipeline gives those of new ones only."""
        path = os.path.join(self._model, "openvino_model.xml")
        request = openvino.Core().compile_model(path, "CPU", self._properties).create_infer_request()
        return [sum_log_probabilities(request, tokens) for tokens in sequences]


def sum_log_probabilities(request, tokens):
    request.reset_state()
    positions = range(len(tokens))
    result = request.infer(
        {
            "input_ids": int64([tokens]),
            "attention_mask": int64([[1 for _ in positions]]),
            "position_ids": int64([list(positions)]),
            "beam_idx": numpy.zeros(1, numpy.int32),
        }
    )
    logits = result["logits"][0, :-1].astype(numpy.float64)  # [tokens - 1, vocabSize]
    largest = logits.max(axis=1)
    totals = largest + numpy.log(numpy.exp(logits - largest[:, None]).sum(axis=1))
    targets = logits[numpy.arange(len(tokens) - 1), tokens[1:]]
    return float((targets - totals).sum())


def int64(values):
    return numpy.array(values, numpy.int64)


def answer(engine, request):
    """Does what one line asks for; the first line opens."""
    kind = request.pop("kind")
    if kind == "open":
        return Engine(**request), None
    if kind == "generate":
        return engine, engine.generate(**request)
    return engine, engine.log_probabilities(**request)


def main():
    engine = None
    with os.fdopen(3, "w") as answers:
        for line in sys.stdin:
            try:
                engine, result = answer(engine, json.loads(line))
                said = {"result": result}
            except Exception as error:
                said = {"failure": str(error)}
            print(json.dumps(said), file=answers, flush=True)
    # Whoever asked is gone: nothing is left to be put in order.
    os._exit(0)


main()
