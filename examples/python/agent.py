"""An agent of a Hivemesh in Python: it does tasks of kind `reverse`, as docs/protocol.md says.

pip install nats-py
python examples/python/agent.py [ID]
"""

import asyncio, json, os, re, signal, sys, time

import nats

MESH = os.environ.get("HIVE_MESH", "hive")
AGENT = sys.argv[1] if len(sys.argv) > 1 else "python-1"
INCARNATION = int(time.time() * 1000)
JSON = {"Content-Type": "application/json"}


async def reverse(body: bytes, headers: dict) -> bytes:
    return body[::-1]


HANDLERS = {"reverse": reverse}


class Agent:
    epoch, interval, sequence, welcomed, draining = 0, 0.5, 0, False, False

    async def connect(self):
        url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
        self.held = {}  # By task: what a beat lists of it, how it ended, and the job that does it.
        self.nc = await nats.connect(url, max_reconnect_attempts=-1, reconnected_cb=self.reconnected)
        await self.nc.subscribe(f"{MESH}.inbox.{AGENT}.*", cb=self.told)

    async def reconnected(self):
        self.welcomed = False

    async def publish(self, verb: str, body: bytes, headers: dict):
        if self.nc.is_connected:  # Otherwise it would be kept and sent later, when it is not so any more.
            await self.nc.publish(f"{MESH}.agent.{AGENT}.{verb}", body, headers=headers)

    async def say(self, verb: str, **fields):
        await self.publish(verb, json.dumps({"incarnation": INCARNATION, **fields}).encode(), JSON)

    def state(self) -> dict:
        return {"holds": [held["beat"] for held in self.held.values()], "draining": self.draining}

    async def hello(self):
        await self.say("hello", slots=4, kinds=list(HANDLERS), labels={"language": "python"}, **self.state())

    async def beat(self):
        while True:
            self.sequence += 1
            await (self.say("beat", sequence=self.sequence, **self.state()) if self.welcomed else self.hello())
            await asyncio.sleep(self.interval if self.welcomed else 1)

    async def told(self, msg):
        verb = msg.subject.rsplit(".", 1)[1]
        if verb == "run":
            return self.run(msg.headers, msg.data)
        if verb == "ping":
            beat = {"incarnation": INCARNATION, "sequence": 0, **self.state()}
            return await self.nc.publish(msg.reply, json.dumps({"agent": AGENT, "beat": beat}).encode(), headers=JSON)
        try:
            body = json.loads(msg.data)
        except ValueError:  # A coordinator that has not heard our hello does not know yet that we speak JSON.
            return await self.hello()
        if verb == "welcome":
            if body["epoch"] >= max(self.epoch, 1):  # A standby asks for a hello too, with epoch 0.
                self.epoch, self.interval, self.welcomed = body["epoch"], seconds(body["beat_interval"]), True
            if body.get("hello_wanted"):
                await self.hello()
        elif verb == "settled":
            for named in body["attempts"]:
                if self.holds(named, lambda ours, theirs: ours == theirs):
                    self.held.pop(named["task"])["job"].cancel()
        elif verb == "cancel":
            held = self.holds(body, lambda ours, theirs: ours <= theirs)
            if held and held["beat"]["state"] == "running":
                held["job"].cancel()
        elif verb == "drain" and body["epoch"] >= self.epoch:
            self.draining = True

    def holds(self, named: dict, compare):
        held = self.held.get(named["task"])
        return held if held and all(compare(held["beat"][name], named[name]) for name in ("attempt", "epoch")) else None

    def run(self, headers: dict, body: bytes):
        beat = {"task": headers["Hive-Task"], "kind": headers["Hive-Kind"], "state": "running"}
        beat |= {name: int(headers[f"Hive-{name.title()}"]) for name in ("sequence", "attempt", "epoch")}
        if beat["epoch"] < self.epoch or int(headers["Hive-Incarnation"]) != INCARNATION:
            return
        self.epoch, held = beat["epoch"], self.held.get(beat["task"])
        if held and (beat["epoch"] <= held["beat"]["epoch"] or beat["attempt"] < held["beat"]["attempt"]):
            return
        has_failed = held and held.get("outcome", "succeeded") != "succeeded"
        if held and not (has_failed and beat["attempt"] > held["beat"]["attempt"]):
            # A new leader counts anew: what we do of the task goes on under its numbers.
            held["beat"] |= beat | {"state": held["beat"]["state"]}
            return
        held = self.held[beat["task"]] = {"beat": beat}
        held["job"] = asyncio.create_task(self.work(held, headers, body))

    async def work(self, held: dict, headers: dict, body: bytes):
        outcome, error, output, started = "succeeded", "", b"", time.monotonic()
        try:
            if self.draining or headers["Hive-Kind"] not in HANDLERS:
                outcome, error = "rejected", "the agent leaves, or has no handler for this"
            else:
                limit = seconds(headers.get("Hive-Timeout", "5m"))
                output = await asyncio.wait_for(HANDLERS[headers["Hive-Kind"]](body, headers), limit)
                assert len(output) + 4096 <= self.nc.max_payload, "the output is larger than the broker takes"
        except asyncio.TimeoutError:
            outcome, error = "timeout", "it ran longer than it may"
        except asyncio.CancelledError:
            outcome, error = "cancelled", "it was told to stop"
        except Exception as problem:
            outcome, error, output = "failed", f"{type(problem).__name__}: {problem}", b""
        held["beat"]["state"], held["outcome"], run_ms = "done", outcome, int((time.monotonic() - started) * 1000)
        for pause in [1, 2, 4] + [5] * 100_000:
            if self.held.get(held["beat"]["task"]) is not held:
                return  # It is settled.
            ours = {f"Hive-{name.title()}": str(value) for name, value in held["beat"].items() if name != "state"}
            ours |= {"Hive-Incarnation": str(INCARNATION), "Hive-Outcome": outcome, "Hive-Run-Ms": str(run_ms)}
            await self.publish("done", output, ours | ({"Hive-Error": " ".join(error.split())[:1000]} if error else {}))
            await asyncio.sleep(pause)


def seconds(duration: str) -> float:
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)\s*(ms|s|m|h)", duration))


async def main():
    agent = Agent()
    await agent.connect()
    for number in [signal.SIGINT, signal.SIGTERM]:
        asyncio.get_running_loop().add_signal_handler(number, lambda: setattr(agent, "draining", True))
    beating = asyncio.create_task(agent.beat())
    while not agent.draining:
        await asyncio.sleep(0.1)
    await agent.hello()  # So that nothing more is ordered.
    while any(held["beat"]["state"] == "running" for held in agent.held.values()):
        await asyncio.sleep(0.05)
    for _ in range(100):  # Five seconds at most for the last `settled`.
        if agent.held:
            await asyncio.sleep(0.05)
    beating.cancel()
    await agent.say("bye")
    await agent.nc.close()


asyncio.run(main())
