"""Publishes tasks as any NATS client would: nats-py, one message a task, nothing of Hivemesh.

usage: publish.py URL COUNT

Prints a line `sequence body-number` for each task that the broker has acknowledged.
"""

import asyncio
import sys

import nats

AT_ONCE = 500


async def main(url: str, count: int) -> None:
    connection = await nats.connect(url)
    stream = connection.jetstream(timeout=30)
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        acks = await asyncio.gather(*(stream.publish("hive.task.echo", b"%0256d" % i) for i in numbers))
        for number, ack in zip(numbers, acks):
            print(ack.seq, number)
    await connection.close()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
