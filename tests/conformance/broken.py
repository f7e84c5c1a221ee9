"""The Python agent of examples/python, with one fault. BREAK names it; without it the agent is as it is there.

Run by main.rs, which says which check must fail of each.
"""

import asyncio, importlib.util, json, os, pathlib, sys

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "python" / "agent.py"
SPEC = importlib.util.spec_from_file_location("agent", EXAMPLE)
agent = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(agent)
Agent, said = agent.Agent, {name: getattr(agent.Agent, name) for name in ("publish", "say", "hello", "hear", "run")}


def never_beats():
    async def say(self, verb, **fields):
        if verb != "beat":
            await said["say"](self, verb, **fields)

    Agent.say = say


def repeats_nothing():
    told = set()

    async def publish(self, verb, body, headers):
        attempt = tuple(headers.get(f"Hive-{name}") for name in ("Task", "Attempt", "Epoch"))
        if verb != "done" or attempt not in told:
            told.add(attempt if verb == "done" else None)
            await said["publish"](self, verb, body, headers)

    Agent.publish = publish


def ignores_epochs():
    def run(self, headers, body):
        newest, self.epoch = self.epoch, 0
        try:
            said["run"](self, headers, body)
        finally:
            self.epoch = max(newest, self.epoch)

    Agent.run = run


def ignores_incarnations():
    def run(self, headers, body):
        said["run"](self, headers | {"Hive-Incarnation": str(agent.INCARNATION)}, body)

    Agent.run = run


def starts_twice():
    def run(self, headers, body):
        held = self.held.get(headers["Hive-Task"])
        if held and held["beat"]["state"] == "running" and held["beat"]["epoch"] == int(headers["Hive-Epoch"]):
            self.held.pop(headers["Hive-Task"])["job"].cancel()
        said["run"](self, headers, body)

    Agent.run = run


def knows_no_slots():
    agent.asyncio.Semaphore = lambda _: asyncio.BoundedSemaphore(1000)


def takes_bytes_for_text():
    async def echo(body, headers):
        return body.decode(errors="replace").encode()

    agent.HANDLERS["echo"] = echo


def dies_of_garbage():
    async def told(self, msg):
        try:
            await said["hear"](self, msg.subject.rsplit(".", 1)[1], msg)
        except Exception:
            if msg.subject.rsplit(".", 1)[1] == "settled":
                os._exit(3)

    Agent.told = told


def cancels_whatever_it_holds():
    async def hear(self, verb, msg):
        if verb == "cancel" and (held := self.held.get(json.loads(msg.data)["task"])):
            beat = held["beat"]
            named = json.dumps({name: beat[name] for name in ("task", "attempt", "epoch")}).encode()
            msg = type("Message", (), {"data": named, "reply": ""})()
        await said["hear"](self, verb, msg)

    Agent.hear = hear


def says_no_hello_when_the_server_is_back():
    async def reconnected(self):
        pass

    Agent.reconnected = reconnected


def returns_nothing():
    async def say(self, verb, **fields):
        await said["say"](self, verb, **fields | ({"returned": []} if verb == "bye" else {}))

    Agent.say = say


def drops_its_handlers_errors():
    agent.one_line = lambda error: ""


if fault := os.environ.get("BREAK"):
    globals()[fault]()
asyncio.run(agent.main())
