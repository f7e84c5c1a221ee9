"""An agent of a Hivemesh in Python: it does tasks of kind `reverse`, as docs/protocol.md says.

pip install nats-py
python examples/python/agent.py [ID]

The kinds `echo`, `sleep` and `fail` are there for `coordinator conformance`, which checks an agent by them.
"""

import asyncio, json, os, re, signal, sys, time

import nats

MESH = os.environ.get("HIVE_MESH", "hive")
AGENT = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("HIVE_AGENT", "python-1")
INCARNATION = int(time.time() * 1000)
JSON = {"Content-Type": "application/json"}
SLOTS, QUEUE = 4, 4  # How many attempts run at once, and how many more wait here for their turn.


async def reverse(body: bytes, headers: dict) -> bytes:
    return body[::-1]


async def echo(body: bytes, headers: dict) -> bytes:
    return body


async def sleep(body: bytes, headers: dict) -> bytes:
    await asyncio.sleep(seconds(body.decode()))
    return b""


async def fail(body: bytes, headers: dict) -> bytes:
    raise RuntimeError(body.decode())


HANDLERS = {handler.__name__: handler for handler in (reverse, echo, sleep, fail)}


class Agent:
    epoch, interval, sequence, welcomed, draining = 0, 0.5, 0, False, False

    async def connect(self):
        url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
        self.held = {}  # By task: what a beat lists of it, how it ended, and the job that does it.
        self.slots = asyncio.Semaphore(SLOTS)
        # By the name of the connection the coordinator knows whose it was, when the broker says that one was closed.
        options = {"name": f"agent-{AGENT}", "max_reconnect_attempts": -1, "reconnected_cb": self.reconnected}
        self.nc = await nats.connect(url, **options)
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

    def in_state(self, state: str) -> list:
        return [held["beat"] for held in self.held.values() if held["beat"]["state"] == state]

    async def hello(self):
        offer = {"slots": SLOTS, "queue": QUEUE, "kinds": list(HANDLERS), "labels": {"language": "python"}}
        await self.say("hello", **offer, **self.state())

    async def beat(self):
        while True:
            self.sequence += 1
            await (self.say("beat", sequence=self.sequence, **self.state()) if self.welcomed else self.hello())
            await asyncio.sleep(self.interval if self.welcomed else 1)

    async def told(self, msg):
        try:
            await self.hear(msg.subject.rsplit(".", 1)[1], msg)
        except Exception as problem:  # What cannot be read is ignored. It must not end the agent.
            print(f"ignored a message on {msg.subject}: {problem!r}", file=sys.stderr)

    async def hear(self, verb: str, msg):
        if verb == "run":
            self.run(msg.headers, msg.data)
        elif verb == "ping" and msg.reply:
            beat = {"incarnation": INCARNATION, "sequence": 0, **self.state()}
            await self.nc.publish(msg.reply, json.dumps({"agent": AGENT, "beat": beat}).encode(), headers=JSON)
        elif verb == "welcome":
            await self.welcome(msg)
        elif verb == "settled":
            for named in json.loads(msg.data)["attempts"]:
                if self.holds(named, lambda ours, theirs: ours == theirs):
                    self.held.pop(named["task"])["job"].cancel()
        elif verb == "cancel":
            held = self.holds(json.loads(msg.data), lambda ours, theirs: ours <= theirs)
            if held and held["beat"]["state"] != "done":
                await asyncio.sleep(0)  # A job that has not begun would end without a word.
                held["job"].cancel()
        elif verb == "drain" and json.loads(msg.data)["epoch"] >= self.epoch:
            self.draining = True

    async def welcome(self, msg):
        try:
            body = json.loads(msg.data)
        except ValueError:  # A coordinator that has not heard our hello does not know yet that we speak JSON.
            return await self.hello()
        interval = seconds(body["beat_interval"])
        if body["epoch"] >= max(self.epoch, 1):  # A standby asks for a hello too, with epoch 0.
            self.epoch, self.interval, self.welcomed = body["epoch"], interval, True
        if body.get("hello_wanted"):
            await self.hello()

    def holds(self, named: dict, compare):
        held = self.held.get(named["task"])
        return held if held and all(compare(held["beat"][name], named[name]) for name in ("attempt", "epoch")) else None

    def run(self, headers: dict, body: bytes):
        beat = {"task": headers["Hive-Task"], "kind": headers["Hive-Kind"], "state": "queued"}
        beat |= {name: number(headers[f"Hive-{name.title()}"]) for name in ("sequence", "attempt", "epoch")}
        incarnation, limit = number(headers["Hive-Incarnation"]), seconds(headers.get("Hive-Timeout", "5m"))
        if beat["epoch"] < self.epoch:
            return
        self.epoch, held = beat["epoch"], self.held.get(beat["task"])
        if incarnation != INCARNATION:
            return
        if held and (beat["epoch"] <= held["beat"]["epoch"] or beat["attempt"] < held["beat"]["attempt"]):
            return
        has_failed = held and held.get("outcome", "succeeded") != "succeeded"
        if held and not (has_failed and beat["attempt"] > held["beat"]["attempt"]):
            # A new leader counts anew: what we do of the task goes on under its numbers.
            held["beat"] |= beat | {"state": held["beat"]["state"]}
            return
        held = self.held[beat["task"]] = {"beat": beat}
        refused = self.draining or beat["kind"] not in HANDLERS
        held["job"] = asyncio.create_task(self.work(held, headers, body, limit, refused))

    async def work(self, held: dict, headers: dict, body: bytes, limit: float, refused: bool):
        beat, outcome, error, output, started = held["beat"], "succeeded", "", b"", time.monotonic()
        try:
            if refused:
                outcome, error = "rejected", "the agent leaves, or has no handler for this"
            else:
                async with self.slots:
                    if self.draining:
                        return  # It goes back with our goodbye.
                    beat["state"], started = "running", time.monotonic()
                    output = await asyncio.wait_for(HANDLERS[beat["kind"]](body, headers), limit)
                assert len(output) + 4096 <= self.nc.max_payload, "the output is larger than the broker takes"
        except asyncio.TimeoutError:
            outcome, error = "timeout", "it ran longer than it may"
        except asyncio.CancelledError:
            outcome, error = "cancelled", "it was told to stop"
        except Exception as problem:
            outcome, error, output = "failed", f"{type(problem).__name__}: {problem}", b""
        beat["state"], held["outcome"], run_ms = "done", outcome, int((time.monotonic() - started) * 1000)
        for pause in [1, 2, 4] + [5] * 100_000:
            if self.held.get(beat["task"]) is not held:
                return  # It is settled.
            ours = {f"Hive-{name.title()}": str(value) for name, value in beat.items() if name != "state"}
            ours |= {"Hive-Incarnation": str(INCARNATION), "Hive-Outcome": outcome, "Hive-Run-Ms": str(run_ms)}
            await self.publish("done", output, ours | ({"Hive-Error": one_line(error)} if error else {}))
            await asyncio.sleep(pause)


def seconds(duration: str) -> float:
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    if not re.fullmatch(r"(\s*\d+\s*(ms|s|m|h))+\s*", duration):
        raise ValueError(f"{duration!r} is not a duration")
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)\s*(ms|s|m|h)", duration))


def number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def one_line(error: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in error)
    return printable.encode()[:1024].decode(errors="ignore").strip()


async def main():
    agent = Agent()
    await agent.connect()
    for number in [signal.SIGINT, signal.SIGTERM]:
        asyncio.get_running_loop().add_signal_handler(number, lambda: setattr(agent, "draining", True))
    beating = asyncio.create_task(agent.beat())
    while not agent.draining:
        await asyncio.sleep(0.05)
    await agent.hello()  # So that nothing more is ordered.
    while agent.in_state("running"):
        await asyncio.sleep(0.05)
    for _ in range(100):  # Five seconds at most for the last `settled`.
        if agent.in_state("done"):
            await asyncio.sleep(0.05)
    beating.cancel()
    returned = [{name: beat[name] for name in ("task", "attempt", "epoch")} for beat in agent.in_state("queued")]
    await agent.say("bye", returned=returned)
    await agent.nc.close()


if __name__ == "__main__":
    asyncio.run(main())
