"""Submits a task to a Hivemesh by plain NATS and prints its result.

pip install nats-py
python examples/python/submit.py KIND BODY
"""

import asyncio, os, sys, uuid

import nats

MESH = os.environ.get("HIVE_MESH", "hive")


async def main(kind: str, body: str):
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    task = str(uuid.uuid4())
    results = await nc.subscribe(f"{MESH}.result.{task}")  # Before the task is there: a result is told once.

    # The answer of JetStream is the acceptance: from here on the task is not lost.
    headers = {"Hive-Timeout": "30s", "Nats-Expected-Last-Subject-Sequence": "0"}
    accepted = await nc.jetstream().publish(f"{MESH}.task.{kind}.normal.{task}", body.encode(), headers=headers)
    print(f"task {task} is number {accepted.seq} of stream {accepted.stream}", file=sys.stderr)

    result = await results.next_msg(timeout=60)
    told = {name: value for name, value in result.headers.items() if name.startswith("Hive-")}
    print(f"{told['Hive-Outcome']} on {told.get('Hive-Agent', 'no agent')}", told.get("Hive-Error", ""), file=sys.stderr)
    sys.stdout.buffer.write(result.data)
    print()
    await nc.close()


asyncio.run(main(*sys.argv[1:]))
