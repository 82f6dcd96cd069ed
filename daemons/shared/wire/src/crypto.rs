//! Key agreement, payload encryption and message keys of binary connections (§10).
//!
//! AES-128-CBC with one IV for the whole connection, MD5 as a keyed check: weak by today's measure, but it is what every published SDK does.
//! Transport security is the business of TLS.

use std::fmt;

use aes::Aes128Enc;
use aes::cipher::{Array, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit, KeyIvInit};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use md5::{Digest, Md5};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::{RecvRef, SendRef};
use wk_types::Reason;

/// The standard alphabet with padding, as lenient about unused bits as the reference decoder.
pub(crate) const B64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

const BLOCK: usize = 16;
/// Bytes that are encrypted and written as text in one go; a multiple of 3 blocks, so that no base64 group is cut.
const CHUNK: usize = 384;
const CHUNK_TEXT: usize = CHUNK / 3 * 4;
const _: () = assert!(CHUNK.is_multiple_of(3 * BLOCK), "a chunk must be whole blocks and whole base64 groups");

/// Why keys cannot be agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The client sent no key (reason 21).
    #[error("client key is empty")]
    Empty,
    /// Not base64, shorter than 32 bytes, or a point that gives an all-zero secret (reason 2).
    #[error("client key is not usable")]
    Bad,
    /// The system's random number generator failed (reason 15).
    #[error("no random numbers")]
    Random,
}

impl KeyError {
    /// Reason for the CONNACK (§8.3).
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Empty => Reason::CLIENT_KEY_IS_EMPTY,
            Self::Bad => Reason::AUTH_FAIL,
            Self::Random => Reason::SYSTEM_ERROR,
        }
    }
}

/// A payload that does not open: wrong message key, not base64, not whole blocks, empty, or bad padding. Always
/// [`Reason::PAYLOAD_DECODE_ERROR`]; which of them it was is kept from the peer on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("payload does not open with the session keys")]
pub struct PayloadError;

impl PayloadError {
    /// Reason for the SENDACK (§10.3).
    #[must_use]
    pub const fn reason(self) -> Reason {
        Reason::PAYLOAD_DECODE_ERROR
    }
}

/// An X25519 key pair, made fresh for each connection. The private part is wiped on drop.
pub struct KeyPair {
    secret: StaticSecret,
    public: PublicKey,
}

impl KeyPair {
    /// A new pair from the system's random numbers.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|_| KeyError::Random)?;
        Ok(Self::from_secret(secret))
    }

    /// The pair of a private key; any 32 bytes will do.
    #[must_use]
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    /// Base64 of the public key, 44 characters: clientKey or serverKey.
    #[must_use]
    pub fn public_b64(&self) -> String {
        B64.encode(self.public.as_bytes())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

/// The IV of a connection: 16 characters of `0-9a-zA-Z`, or any other ASCII when a server sent it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; BLOCK]);

impl Salt {
    /// A new salt from the system's random numbers.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        const ALPHABET: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut random = [0; 4 * BLOCK];
        getrandom::fill(&mut random).map_err(|_| KeyError::Random)?;
        let mut salt = [0; BLOCK];
        for (place, four) in salt.iter_mut().zip(random.as_chunks::<4>().0) {
            // 62 does not divide 2^32; the bias is below 2^-26.
            let at = u32::from_le_bytes(*four) % 62;
            *place = usize::try_from(at).ok().and_then(|at| ALPHABET.get(at)).copied().unwrap_or(b'0');
        }
        Ok(Self(salt))
    }

    /// The salt of a CONNACK, for clients; `None` unless it is 16 ASCII characters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.is_ascii().then(|| text.as_bytes().try_into().ok().map(Self)).flatten()
    }

    /// The 16 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Salt").finish_non_exhaustive()
    }
}

/// Agrees on the keys of a connection: `own` pair, the peer's public key in base64, and the server's salt (§10.1).
///
/// # Errors
///
/// [`KeyError::Empty`] for an empty key; [`KeyError::Bad`] when it is not base64, has fewer than 32 bytes, or gives an all-zero secret.
/// Bytes after the 32nd are ignored.
pub fn agree(own: &KeyPair, peer_b64: &str, salt: Salt) -> Result<SessionKeys, KeyError> {
    if peer_b64.is_empty() {
        return Err(KeyError::Empty);
    }
    let mut decoded = Vec::new();
    decode_b64(peer_b64.as_bytes(), &mut decoded).map_err(|_| KeyError::Bad)?;
    let peer: [u8; 32] = *decoded.first_chunk().ok_or(KeyError::Bad)?;
    let shared = own.secret.diffie_hellman(&PublicKey::from(peer));
    if !shared.was_contributory() {
        return Err(KeyError::Bad);
    }
    let text = B64.encode(shared.as_bytes());
    let hex = hex(&Md5::digest(text.as_bytes()).into());
    let mut key = [0; BLOCK];
    for (place, &digit) in key.iter_mut().zip(&hex) {
        *place = digit;
    }
    Ok(SessionKeys { key, iv: salt.0 })
}

/// What a server answers to a client key.
#[derive(Debug)]
pub struct Accepted {
    /// Keys of the connection.
    pub keys: SessionKeys,
    /// `serverKey` of the CONNACK.
    pub server_key: String,
    /// `salt` of the CONNACK.
    pub salt: Salt,
}

/// The server's side of the agreement, with a fresh pair and a fresh salt.
///
/// # Errors
///
/// As [`agree`], and [`KeyError::Random`].
pub fn accept(client_key: &str) -> Result<Accepted, KeyError> {
    if client_key.is_empty() {
        return Err(KeyError::Empty);
    }
    let pair = KeyPair::generate()?;
    let salt = Salt::generate()?;
    let keys = agree(&pair, client_key, salt)?;
    Ok(Accepted { keys, server_key: pair.public_b64(), salt })
}

/// 32 random hex characters: the client message number of a JSON-RPC `send` that has none (§11.1).
///
/// # Errors
///
/// [`KeyError::Random`].
pub fn random_msg_no() -> Result<String, KeyError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(String::from_utf8_lossy(&hex(&bytes)).into_owned())
}

/// Keys of one connection: 32 bytes. The key schedule (176 bytes in hardware, 704 in software) is expanded per use, which costs less than the
/// memory of a million sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionKeys {
    key: [u8; BLOCK],
    iv: [u8; BLOCK],
}

impl SessionKeys {
    /// Key, then IV: for handing a session to another process.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 2 * BLOCK] {
        let mut bytes = [0; 2 * BLOCK];
        for (place, &byte) in bytes.iter_mut().zip(self.key.iter().chain(&self.iv)) {
            *place = byte;
        }
        bytes
    }

    /// The keys that [`SessionKeys::to_bytes`] gave; `None` unless there are 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key, iv) = bytes.split_first_chunk::<BLOCK>()?;
        Some(Self { key: *key, iv: iv.try_into().ok()? })
    }

    /// Appends the wire form of a payload: base64 of the ciphertext.
    pub fn encrypt_payload(&self, plain: &[u8], out: &mut Vec<u8>) {
        self.cipher().seal(plain, out);
    }

    /// Appends the plaintext of a wire payload.
    ///
    /// # Errors
    ///
    /// [`PayloadError`]; `out` is then as before.
    pub fn decrypt_payload(&self, wire: &[u8], out: &mut Vec<u8>) -> Result<(), PayloadError> {
        let start = out.len();
        let opened = self.open(wire, out, start);
        out.truncate(*opened.as_ref().unwrap_or(&start));
        opened.map(drop)
    }

    /// The message key of a SEND as it stands (payload in wire form).
    #[must_use]
    pub fn send_key(&self, x: &SendRef<'_>) -> MsgKey {
        self.cipher().sign_send(x, x.payload)
    }

    /// The message key of a RECV as it stands (payload in wire form).
    #[must_use]
    pub fn recv_key(&self, x: &RecvRef<'_>) -> MsgKey {
        self.cipher().sign_recv(x, x.payload)
    }

    /// Checks the message key of a SEND, then appends its plaintext. For servers.
    ///
    /// # Errors
    ///
    /// [`PayloadError`]; `out` is then as before.
    pub fn open_send(&self, x: &SendRef<'_>, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        if !self.send_key(x).matches(x.msg_key) {
            return Err(PayloadError);
        }
        self.decrypt_payload(x.payload, out)
    }

    /// Checks the message key of a RECV, then appends its plaintext. For clients.
    ///
    /// # Errors
    ///
    /// [`PayloadError`]; `out` is then as before.
    pub fn open_recv(&self, x: &RecvRef<'_>, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        if !self.recv_key(x).matches(x.msg_key) {
            return Err(PayloadError);
        }
        self.decrypt_payload(x.payload, out)
    }

    /// The expanded key, for several operations in a row.
    pub(crate) fn cipher(&self) -> Cipher {
        Cipher { key: Aes128Enc::new(&Array(self.key)), iv: self.iv }
    }

    /// Decodes and decrypts behind `start`; returns where the plaintext ends.
    fn open(&self, wire: &[u8], out: &mut Vec<u8>, start: usize) -> Result<usize, PayloadError> {
        decode_b64(wire, out)?;
        let cipher_text = out.get_mut(start..).ok_or(PayloadError)?;
        let (blocks, rest) = Array::slice_as_chunks_mut(cipher_text);
        if blocks.is_empty() || !rest.is_empty() {
            return Err(PayloadError);
        }
        cbc::Decryptor::<aes::Aes128Dec>::new(&Array(self.key), &Array(self.iv)).decrypt_blocks(blocks);
        let pad = *out.last().ok_or(PayloadError)?;
        let pad_len = usize::from(pad);
        let end = out.len().checked_sub(pad_len).ok_or(PayloadError)?;
        let padding = out.get(end..).ok_or(PayloadError)?;
        if pad_len == 0 || pad_len > BLOCK || padding.iter().any(|&byte| byte != pad) {
            return Err(PayloadError);
        }
        Ok(end)
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKeys").finish_non_exhaustive()
    }
}

/// A message key: 32 lower-case hex characters (§10.3).
#[derive(Debug, Clone, Copy)]
pub struct MsgKey([u8; 32]);

impl MsgKey {
    /// The characters as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// True when `claimed` is this key. Takes the same time for every claim of the right length.
    #[must_use]
    pub fn matches(&self, claimed: &str) -> bool {
        let claimed = claimed.as_bytes();
        claimed.len() == self.0.len() && std::hint::black_box(self.0.iter().zip(claimed).fold(0, |diff, (a, b)| diff | (a ^ b))) == 0
    }
}

/// Length of the wire form of a payload of `plain` bytes: base64 of its padded blocks.
#[must_use]
pub fn sealed_len(plain: usize) -> usize {
    let padded = (plain / BLOCK).saturating_add(1).saturating_mul(BLOCK);
    padded.div_ceil(3).saturating_mul(4)
}

/// An expanded key with its IV.
pub(crate) struct Cipher {
    key: Aes128Enc,
    iv: [u8; BLOCK],
}

impl Cipher {
    /// Appends base64 of the encrypted `plain`.
    pub(crate) fn seal(&self, plain: &[u8], out: &mut Vec<u8>) {
        out.reserve(sealed_len(plain.len()));
        let mut stream = Stream::new(self);
        let mut take = |text: &[u8]| out.extend_from_slice(text);
        stream.push(plain, &mut take);
        stream.finish(&mut take);
    }

    /// Message key of a SEND whose wire payload is `wire`.
    pub(crate) fn sign_send(&self, x: &SendRef<'_>, wire: &[u8]) -> MsgKey {
        self.sign(|put| {
            decimal(x.client_seq.into(), put);
            put(x.client_msg_no.as_bytes());
            put(x.channel_id.as_bytes());
            decimal(x.channel_type.0.into(), put);
            put(wire);
        })
    }

    /// Message key of a RECV whose wire payload is `wire`.
    pub(crate) fn sign_recv(&self, x: &RecvRef<'_>, wire: &[u8]) -> MsgKey {
        self.sign(|put| {
            signed_decimal(x.message_id, put);
            decimal(x.message_seq, put);
            put(x.client_msg_no.as_bytes());
            signed_decimal(x.timestamp.into(), put);
            put(x.from_uid.as_bytes());
            put(x.channel_id.as_bytes());
            decimal(x.channel_type.0.into(), put);
            put(wire);
        })
    }

    /// MD5 over the base64 of the encrypted sign string, which `parts` hands over piece by piece.
    fn sign(&self, parts: impl FnOnce(&mut dyn FnMut(&[u8]))) -> MsgKey {
        let mut md5 = Md5::new();
        let mut stream = Stream::new(self);
        let mut take = |text: &[u8]| md5.update(text);
        parts(&mut |bytes| stream.push(bytes, &mut take));
        stream.finish(&mut take);
        MsgKey(hex(&md5.finalize().into()))
    }
}

/// CBC encryption of a byte stream, handed out as base64 text; holds one chunk.
struct Stream<'k> {
    mode: cbc::Encryptor<&'k Aes128Enc>,
    chunk: [u8; CHUNK],
    fill: usize,
}

impl<'k> Stream<'k> {
    fn new(cipher: &'k Cipher) -> Self {
        Self { mode: cbc::Encryptor::inner_iv_init(&cipher.key, &Array(cipher.iv)), chunk: [0; CHUNK], fill: 0 }
    }

    fn push(&mut self, mut bytes: &[u8], take: &mut impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let free = self.chunk.get_mut(self.fill..).unwrap_or_default();
            let (now, later) = bytes.split_at(bytes.len().min(free.len()));
            for (place, &byte) in free.iter_mut().zip(now) {
                *place = byte;
            }
            self.fill += now.len();
            bytes = later;
            if self.fill == CHUNK {
                self.flush(take);
            }
        }
    }

    /// Pads (PKCS#7) and hands out the rest.
    fn finish(mut self, take: &mut impl FnMut(&[u8])) {
        let pad_len = BLOCK - self.fill % BLOCK;
        let pad = u8::try_from(pad_len).unwrap_or(0);
        // INVARIANT: the chunk is a multiple of the block and never full here, so the padding fits.
        for place in self.chunk.iter_mut().skip(self.fill).take(pad_len) {
            *place = pad;
        }
        self.fill += pad_len;
        self.flush(take);
    }

    fn flush(&mut self, take: &mut impl FnMut(&[u8])) {
        let bytes = self.chunk.get_mut(..self.fill).unwrap_or_default();
        let (blocks, _) = Array::slice_as_chunks_mut(bytes);
        self.mode.encrypt_blocks(blocks);
        let mut text = [0; CHUNK_TEXT];
        let len = B64.encode_slice(bytes, &mut text).unwrap_or(0);
        take(text.get(..len).unwrap_or_default());
        self.fill = 0;
    }
}

/// Appends the bytes of a base64 text; CR and LF are ignored, as the reference does.
pub(crate) fn decode_b64(text: &[u8], out: &mut Vec<u8>) -> Result<(), PayloadError> {
    if text.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        let text: Vec<u8> = text.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
        return B64.decode_vec(text, out).map_err(|_| PayloadError);
    }
    B64.decode_vec(text, out).map_err(|_| PayloadError)
}

fn hex(bytes: &[u8; 16]) -> [u8; 32] {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + (value - 10) };
    let mut text = [0; 32];
    for ([high, low], &byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *high = digit(byte >> 4);
        *low = digit(byte & 0xf);
    }
    text
}

fn signed_decimal(value: i64, put: &mut dyn FnMut(&[u8])) {
    if value < 0 {
        put(b"-");
    }
    decimal(value.unsigned_abs(), put);
}

fn decimal(mut value: u64, put: &mut dyn FnMut(&[u8])) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        start -= 1;
        if value == 0 {
            break;
        }
    }
    put(digits.get(start..).unwrap_or_default());
}
