#!/usr/bin/env python3
"""A gateway whose engine has a CUDA device (over the emulator): it answers; when the device is lost in mid-request the next route does.
Suite security."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import new_stack, policy, tap  # noqa: E402
from tap import case, check, equal  # noqa: E402

PLUGIN = tap.BUILD / "engine/cuda/libgatehouse-cuda-emulated.so"
POLICY = policy().replace("  mock:\n", """  gpu:
    engine: {file: "@MODEL@", device: cuda, max_sequences: 2, queue_max: 8, context_tokens: 256}
    max_class: secret
  mock:
""", 1).replace("models:\n", "models:\n  gpu-first: {routes: [{backend: gpu, model: demo}, {backend: mock, model: gpt-mock}]}\n"
                "  gpu-alone: {routes: [{backend: gpu, model: demo}]}\n", 1)


def stack(fault=None):
    return new_stack(policy=POLICY, config={"cuda_plugin": PLUGIN}, env={"GPU_EMULATE_FAULT": fault} if fault else None)


@case
def test_device__answers():
    with stack() as gw:
        key = gw.new_key("admin", owner="device")
        status, headers, body = gw.chat(key, "Hi", model="gpu-first", max_tokens=2, temperature=0)
        equal((status, headers["x-gatehouse-route"], headers["x-gatehouse-route-kind"]), (200, "gpu", "engine"))
        check(body["choices"][0]["message"]["content"])
        engines = [c for name, c in gw.readiness()[1].items() if name == "engine"]
        check(any("emulated device" in c.get("device", "") for c in engines) or "emulated device" in gw.log_tail("gateway", 400))


@case
def test_device__lost_in_a_request_the_next_route_answers():
    with stack("launch:12") as gw:
        key = gw.new_key("admin", owner="device")
        for _ in range(2):  # the one that was running, and one that comes later
            status, headers, body = gw.chat(key, "Hi", model="gpu-first", max_tokens=2)
            equal((status, headers["x-gatehouse-route"], headers["x-gatehouse-route-kind"]), (200, "mock", "provider"))
        status, _, body = gw.chat(key, "Hi", model="gpu-alone", max_tokens=2)
        equal((status, body["error"]["code"]), (503, "upstream_unavailable"))
        status, _ = gw.readiness()
        equal(status, 200, "the instance goes on")
        equal(gw.metric("gatehouse_engine_device_lost"), 1)
        check("emulated device: " in gw.log_tail("gateway", 400) and "unspecified launch failure" in gw.log_tail("gateway", 400))


if __name__ == "__main__":
    sys.exit(tap.run())
