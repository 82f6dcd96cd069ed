"""One user with the published Python SDK. Commands come as JSON lines on stdin, events go as JSON lines to stdout."""

import asyncio
import json
import logging
import sys

from wukong_easy_sdk import WKIM, AuthOptions, WKIMChannelType, WKIMDeviceFlag, WKIMError, WKIMEvent, WKIMOptions

logging.disable(logging.CRITICAL)


def say(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class Driver:
    def __init__(self):
        self.client = None

    async def connect(self, addr, uid, token, device_flag=2):
        if self.client is None:
            auth = AuthOptions(uid=uid, token=token, device_id="py-" + uid, device_flag=WKIMDeviceFlag(device_flag))
            self.client = WKIM(addr, auth, WKIMOptions(connect_timeout=10, max_reconnect_attempts=100))
            self.client.on(WKIMEvent.MESSAGE, self.on_message)
            self.client.on(WKIMEvent.DISCONNECT, lambda *a: say(event="disconnected"))
        try:
            result = await self.client.connect()
            say(event="status", status=1, reason=result.get("reasonCode"))
        except WKIMError as err:
            say(event="status", status=3, reason=getattr(err, "code", None), text=str(err))

    def on_message(self, m):
        payload = m.get("payload")
        say(
            event="message",
            message_id=str(m.get("messageId")),
            message_seq=m.get("messageSeq"),
            from_uid=m.get("fromUid"),
            channel_id=m.get("channelId"),
            channel_type=m.get("channelType"),
            text=payload.get("content") if isinstance(payload, dict) else None,
        )

    async def send(self, channel_id, channel_type, text):
        try:
            ack = await self.client.send(channel_id, WKIMChannelType(channel_type), {"type": 1, "content": text})
            say(event="sendack", message_id=str(ack["messageId"]), message_seq=ack["messageSeq"], reason=ack["reasonCode"])
        except WKIMError as err:
            say(event="sendack", message_id=None, message_seq=0, reason=getattr(err, "code", None), text=str(err))

    async def ping(self):
        await self.client.ping()
        say(event="pong")

    async def disconnect(self):
        await self.client.disconnect()
        say(event="disconnect-done")


async def main():
    driver = Driver()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say(event="up")
    while line := await reader.readline():
        command = json.loads(line)
        name = command.pop("cmd")
        if name == "exit":
            break
        try:
            await getattr(driver, name)(**command)
        except Exception as err:  # the test reads it and fails with this text
            say(event="failed", error=repr(err))


asyncio.run(main())
