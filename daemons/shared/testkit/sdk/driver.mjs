// One user with the published JS SDK. Commands come as JSON lines on stdin, events go as JSON lines to stdout; the SDK's own prints are dropped.
import { createInterface } from 'node:readline'

const out = process.stdout
const say = (event) => out.write(JSON.stringify(event) + '\n')
for (const level of ['log', 'info', 'warn', 'debug', 'error']) console[level] = () => {}

if (!globalThis.WebSocket) globalThis.WebSocket = (await import('ws')).WebSocket
const { WKSDK, Channel, MessageText } = await import('./sdk.mjs')
const sdk = WKSDK.shared()

sdk.connectManager.addConnectStatusListener((status, reason) => say({ event: 'status', status, reason: reason ?? null }))
sdk.chatManager.addMessageStatusListener((ack) =>
  say({ event: 'sendack', client_seq: ack.clientSeq, message_id: String(ack.messageID), message_seq: ack.messageSeq, reason: ack.reasonCode }))
sdk.chatManager.addMessageListener((m) => {
  if (m.send) return
  say({
    event: 'message', message_id: String(m.messageID), message_seq: m.messageSeq, from_uid: m.fromUID,
    channel_id: m.channel.channelID, channel_type: m.channel.channelType, text: m.content.text ?? null,
  })
})

const commands = {
  connect({ addr, uid, token, device_flag }) {
    sdk.config.addr = addr
    sdk.config.uid = uid
    sdk.config.token = token
    sdk.config.deviceFlag = device_flag ?? 1
    sdk.connect()
  },
  async send({ channel_id, channel_type, text }) {
    const message = await sdk.chatManager.send(new MessageText(text), new Channel(channel_id, channel_type))
    say({ event: 'sent', client_seq: message.clientSeq, client_msg_no: message.clientMsgNo })
  },
  disconnect() {
    sdk.disconnect()
    say({ event: 'disconnected' })
  },
  exit() {
    process.exit(0)
  },
}

const lines = createInterface({ input: process.stdin })
lines.on('line', async (line) => {
  try {
    const command = JSON.parse(line)
    await commands[command.cmd](command)
  } catch (err) {
    say({ event: 'failed', error: String(err) })
  }
})
lines.on('close', () => process.exit(0))
say({ event: 'up' })
