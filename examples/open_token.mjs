// Opens secmiddleware's tokens with nothing but Node's own crypto: docs/token-format.md, read again in another language.
//
//     node open_token.mjs keyring.json kek ssn < tokens.txt
//
// takes the ring document, the file of the key-encryption key (32 bytes) and the name of a field, and prints the value of
// each line. Options: --purpose, --tenant, --caller TEXT, --now TIME, --fernet-key FILE (may come again, newest first).
//
//     node open_token.mjs --key client.key payments ssn < tokens.txt
//
// takes a private key (PEM), the names of the ring and of a field, and opens what was sealed to that key.
// It opens suites 1, 2 and 3, Fernet and JWE, and seals nothing.

import {
  constants,
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  privateDecrypt,
  timingSafeEqual,
} from "node:crypto";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

export class Refused extends Error {}
export class KeyUnknown extends Refused {}

const ascii = (text) => Buffer.from(text, "ascii");
const utf8 = (text) => Buffer.from(text, "utf8");

// §1 Notation.

function lp(part) {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(part.length);
  return Buffer.concat([length, part]);
}

function fromBase64url(text) {
  const raw = Buffer.from(text, "base64url");
  // Buffer skips what is not of the alphabet: one token would have many spellings.
  if (text === "" || raw.toString("base64url") !== text) throw new Refused();
  return raw;
}

// RFC 5869, of 32 or 64 bytes. Node's own takes an info of 1024 bytes at most, and names may be longer.
function hkdf(secret, label, parts = [], length = 32) {
  const info = Buffer.concat([ascii(label), ...parts.map(lp)]);
  const hmac = (key, data) => createHmac("sha256", key).update(data).digest();
  const key = hmac(Buffer.alloc(32), secret);
  const first = hmac(key, Buffer.concat([info, Buffer.from([1])]));
  return length === 32 ? first : Buffer.concat([first, hmac(key, Buffer.concat([first, info, Buffer.from([2])]))]);
}

function gcm(key, nonce, sealed, associated) {
  if (nonce.length !== 12 || sealed.length < 16) throw new Refused();
  const cipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: 16 });
  cipher.setAAD(associated);
  cipher.setAuthTag(sealed.subarray(-16));
  try {
    return Buffer.concat([cipher.update(sealed.subarray(0, -16)), cipher.final()]);
  } catch {
    throw new Refused();
  }
}

const sameBytes = (one, other) => one.length === other.length && timingSafeEqual(one, other);

// AES-CMAC (RFC 4493), of CBC: a block cipher chained from zero; only the last block differs.

function doubled(block) {
  const number = BigInt("0x" + block.toString("hex")) << 1n;
  const reduced = number >> 128n ? (number ^ 0x87n) & ((1n << 128n) - 1n) : number;
  return Buffer.from(reduced.toString(16).padStart(32, "0"), "hex");
}

const xor = (one, other) => Buffer.from(one.map((byte, at) => byte ^ other[at]));

function chained(key, data) {
  const cipher = createCipheriv("aes-256-cbc", key, Buffer.alloc(16));
  cipher.setAutoPadding(false);
  return Buffer.concat([cipher.update(data), cipher.final()]).subarray(-16);
}

function padded(block) {
  const whole = Buffer.alloc(16);
  block.copy(whole);
  whole[block.length] = 0x80;
  return whole;
}

export function cmac(key, data) {
  const k1 = doubled(chained(key, Buffer.alloc(16)));
  const before = data.length === 0 ? 0 : Math.ceil(data.length / 16) * 16 - 16;
  const end = data.subarray(before);
  const last = end.length === 16 ? xor(end, k1) : xor(padded(end), doubled(k1));
  return chained(key, Buffer.concat([data.subarray(0, before), last]));
}

// XAES-256-GCM (c2sp.org/XAES-256-GCM).

export function xaes(key, nonce, sealed, associated) {
  if (nonce.length !== 24) throw new Refused();
  const half = (counter) =>
    cmac(key, Buffer.concat([Buffer.from([0, counter]), ascii("X\0"), nonce.subarray(0, 12)]));
  return gcm(Buffer.concat([half(1), half(2)]), nonce.subarray(12), sealed, associated);
}

// AES-SIV (RFC 5297) with one string of associated data.

export function siv(key, sealed, associated) {
  if (sealed.length < 16) throw new Refused();
  const [macKey, textKey] = [key.subarray(0, 32), key.subarray(32)];
  const vector = sealed.subarray(0, 16);
  const counter = Buffer.from(vector);
  counter[8] &= 0x7f;
  counter[12] &= 0x7f;
  const cipher = createDecipheriv("aes-256-ctr", textKey, counter);
  const value = Buffer.concat([cipher.update(sealed.subarray(16)), cipher.final()]);
  const d = xor(doubled(cmac(macKey, Buffer.alloc(16))), cmac(macKey, associated));
  const last =
    value.length >= 16
      ? Buffer.concat([value.subarray(0, -16), xor(value.subarray(-16), d)])
      : xor(doubled(d), padded(value));
  if (!sameBytes(cmac(macKey, last), vector)) throw new Refused();
  return value;
}

// Fernet (github.com/fernet/spec), of whatever age. Its key is sixteen bytes to sign and sixteen to encrypt.

export function fernet(key, token) {
  const text = token.replace(/={0,2}$/, "");
  if (token !== text + "=".repeat((4 - (text.length % 4)) % 4)) throw new Refused();
  const raw = fromBase64url(text);
  if (raw.length < 73 || raw[0] !== 0x80) throw new Refused();
  const signed = raw.subarray(0, -32);
  const mac = createHmac("sha256", key.subarray(0, 16)).update(signed).digest();
  if (!sameBytes(mac, raw.subarray(-32))) throw new Refused();
  const cipher = createDecipheriv("aes-128-cbc", key.subarray(16), raw.subarray(9, 25));
  try {
    return Buffer.concat([cipher.update(raw.subarray(25, -32)), cipher.final()]);
  } catch {
    throw new Refused();
  }
}

// §6 JWE in its compact form (RFC 7516), with A256GCM.

// What JSON.parse makes of a text in which no member is there twice.
function oneReading(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refused();
  }
  const open = [];
  for (const [sign, string, colon] of text.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|[{}]/gs)) {
    if (sign === "{") open.push(new Set());
    else if (sign === "}") open.pop();
    else if (colon !== undefined) {
      const name = JSON.parse(string);
      if (open.at(-1).has(name)) throw new Refused();
      open.at(-1).add(name);
    }
  }
  return value;
}

function strictUtf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Refused();
  }
}

function headerOf(token) {
  const head = token.split(".")[0];
  if (head.length > 16384) throw new Refused();
  const header = oneReading(strictUtf8(fromBase64url(head)));
  if (header === null || typeof header !== "object" || Array.isArray(header)) throw new Refused();
  if (header.enc !== "A256GCM" || "zip" in header || "crit" in header) throw new Refused();
  if ("kid" in header && typeof header.kid !== "string") throw new Refused();
  return header;
}

// `keyOf` makes the content's key of the encrypted key, once it is known that there are five parts.
function jwe(token, header, ring, slots, keyOf) {
  const parts = token.split(".");
  if (parts.length !== 5) throw new Refused();
  const [encrypted, nonce, text, tag] = parts.slice(1).map((part) => (part === "" ? ascii("") : fromBase64url(part)));
  if (tag.length !== 16) throw new Refused();
  const value = gcm(keyOf(encrypted), nonce, Buffer.concat([text, tag]), ascii(parts[0]));
  // Only now: until here anybody may have written the header.
  const names = ["ring", "field", "purpose", "tenant", "caller"];
  const fits = [ring, ...slots].every((slot, at) => (header[`secmw.${names[at]}`] ?? "") === slot);
  if (!fits || names.some((name) => header[`secmw.${name}`] === null)) throw new Refused();
  return value;
}

function agreedKey(key, header) {
  const { kty, crv, x, y, d } = header.epk ?? {};
  if (kty !== "EC" || d !== undefined) throw new Refused();
  const publicKey = createPublicKey({ key: { kty, crv, x, y }, format: "jwk" });
  const secret = diffieHellman({ privateKey: key, publicKey });
  // Concat KDF (NIST SP 800-56A §5.8.1, RFC 7518 §4.6.2): 256 bits are one round of SHA-256.
  const word = (number) => Buffer.from([0, 0, number >> 8, number & 255]);
  const parties = [header.apu, header.apv].map((text = "") => lp(text === "" ? ascii("") : fromBase64url(text)));
  const info = [lp(ascii(header.alg)), ...parties, word(256)];
  return createHash("sha256").update(Buffer.concat([word(1), secret, ...info])).digest();
}

function contentKey(key, header, encrypted) {
  const padding = constants.RSA_PKCS1_OAEP_PADDING;
  try {
    if (key.asymmetricKeyType === "rsa" && header.alg === "RSA-OAEP-256")
      return privateDecrypt({ key, padding, oaepHash: "sha256" }, encrypted);
    if (key.asymmetricKeyType !== "ec" || header.alg !== "ECDH-ES+A256KW") throw new Refused();
    const unwrap = createDecipheriv("id-aes256-wrap", agreedKey(key, header), Buffer.alloc(8, 0xa6));
    return Buffer.concat([unwrap.update(encrypted), unwrap.final()]);
  } catch {
    throw new Refused();
  }
}

// Of a token that was sealed to somebody's key; `key` is its private half, as createPrivateKey has it.
export function openSealed(key, token, ring, { field, purpose = "field", tenant = "", caller = "" }) {
  const header = headerOf(token);
  const slots = [field, purpose, tenant, caller];
  return jwe(token, header, ring, slots, (encrypted) => {
    const cek = contentKey(key, header, encrypted);
    if (cek.length !== 32) throw new Refused();
    return cek;
  });
}

// §4 The ring document.

const SUITES = {
  aead: { number: 1, shortest: 33 },
  xaes: { number: 2, shortest: 45 },
  deterministic: { number: 3, shortest: 21 },
};

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value).sort();
  return `{${members.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
}

export class Ring {
  // `kek` has 32 bytes; a document that is not authentic throws. Whether it is the newest one, its store knows.
  constructor(text, kek, name = JSON.parse(text).ring) {
    const { mac, ...document } = JSON.parse(text);
    if (document.ring !== name) throw new Refused();
    this.name = ascii(name);
    const wrapped = fromBase64url(document.root);
    const context = Buffer.concat([ascii("secmw/root/v1"), lp(this.name)]);
    const root = gcm(kek, wrapped.subarray(0, 12), wrapped.subarray(12), context);
    const macKey = hkdf(root, "secmw/document-mac/v1", [this.name]);
    const expected = createHmac("sha256", macKey).update(canonical(document)).digest();
    // JSON.parse takes the last of two members of one name; the text is compared, so that there are no two.
    if (!sameBytes(expected, fromBase64url(mac))) throw new Refused();
    if (canonical({ ...document, mac }) !== text.trimEnd()) throw new Refused();
    const wrapping = hkdf(root, "secmw/key-wrapping/v1", [this.name]);
    this.keys = document.keys.map((key) => ({ ...key, secret: this.#unwrapped(wrapping, key) }));
  }

  #unwrapped(wrapping, key) {
    if (key.wrapped === null) return null;
    const wrapped = fromBase64url(key.wrapped);
    const context = Buffer.concat([ascii("secmw/key/v1"), lp(this.name), Buffer.from(key.kid, "hex")]);
    return gcm(wrapping, wrapped.subarray(0, 12), wrapped.subarray(12), context);
  }

  // Times of one form compare as text.
  #opens(key, now) {
    return key.secret !== null && !key.distrusted && (key.retire_at === null || now < key.retire_at);
  }

  // §2, §3 and §6. `format` is the field's to say, not the token's; `now` is written as in the document.
  open(token, format, { field, purpose = "field", tenant = "", caller = "" }, now) {
    const slots = [field, purpose, tenant, caller].map(utf8);
    if (format === "fernet") return this.#openFernet(token, slots, now);
    if (format === "jwe") return this.#openJwe(token, [field, purpose, tenant, caller], now);
    if (!token.startsWith("sm1.")) throw new Refused();
    const raw = fromBase64url(token.slice(4));
    const { number, shortest } = SUITES[format];
    if (raw[0] !== number || raw.length < shortest) throw new Refused();
    const header = raw.subarray(0, 5);
    const key = this.keys.find(({ kid }) => kid === header.toString("hex", 1));
    if (key === undefined) throw new KeyUnknown();
    if (!this.#opens(key, now)) throw new Refused();
    const associated = Buffer.concat([ascii("secmw/token/v1"), header, lp(this.name), ...slots.map(lp)]);
    switch (format) {
      case "aead":
        return gcm(
          hkdf(key.secret, "secmw/suite-1/aes-256-gcm/v1"),
          raw.subarray(5, 17),
          raw.subarray(17),
          associated,
        );
      case "xaes":
        return xaes(
          hkdf(key.secret, "secmw/suite-2/xaes-256-gcm/v1"),
          raw.subarray(5, 29),
          raw.subarray(29),
          associated,
        );
      default: {
        const parts = [this.name, ...slots.slice(0, 3)];
        const subkey = hkdf(key.secret, "secmw/suite-3/aes-256-siv/v1", parts, 64);
        return siv(subkey, raw.subarray(5), associated);
      }
    }
  }

  #openJwe(token, slots, now) {
    const header = headerOf(token);
    if (header.alg !== "dir" || typeof header.kid !== "string" || !/^[0-9a-f]{8}$/.test(header.kid))
      throw new Refused();
    const key = this.keys.find(({ kid }) => kid === header.kid);
    if (key === undefined) throw new KeyUnknown();
    if (!this.#opens(key, now)) throw new Refused();
    return jwe(token, header, this.name.toString(), slots, (encrypted) => {
      if (encrypted.length !== 0) throw new Refused();
      return hkdf(key.secret, "secmw/jwe/dir/a256gcm/v1");
    });
  }

  #openFernet(token, slots, now) {
    for (const key of this.keys.toReversed()) {
      if (!this.#opens(key, now)) continue;
      const value = attempt(hkdf(key.secret, "secmw/fernet/v1", [this.name, ...slots.slice(0, 2)]), token);
      if (value !== null) return value;
    }
    throw new Refused();
  }
}

// Keys from elsewhere, the newest first; they are bound to no ring and no field.
export function openListed(keys, token) {
  for (const key of keys) {
    const value = attempt(Buffer.from(key, "base64url"), token);
    if (value !== null) return value;
  }
  throw new Refused();
}

function attempt(key, token) {
  try {
    return fernet(key, token);
  } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}

export function formatOf(token) {
  if (token.startsWith("eyJ")) return "jwe";
  if (!token.startsWith("sm1.")) return "fernet";
  const number = Buffer.from(token.slice(4, 6), "base64url")[0];
  return Object.keys(SUITES).find((name) => SUITES[name].number === number) ?? "aead";
}

function main() {
  const text = { type: "string" };
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      purpose: text,
      tenant: text,
      caller: text,
      now: text,
      key: text,
      "fernet-key": { type: "string", multiple: true, default: [] },
    },
  });
  const { now = new Date().toISOString().replace("Z", "000Z"), "fernet-key": files, key: own, ...slots } = values;
  const tokens = readFileSync(0, "utf8").split("\n").filter(Boolean);
  const show = (value) => process.stdout.write(Buffer.concat([value, ascii("\n")]));
  if (own !== undefined) {
    const [name, field] = positionals;
    const key = createPrivateKey(readFileSync(own));
    for (const token of tokens) show(openSealed(key, token, name, { field, ...slots }));
    return;
  }
  const [document, kek, field] = positionals;
  const ring = new Ring(readFileSync(document, "utf8"), readFileSync(kek));
  const keys = files.map((file) => readFileSync(file, "ascii").trim());
  for (const token of tokens) {
    const format = formatOf(token);
    let value;
    try {
      value = format === "fernet" ? openListed(keys, token) : ring.open(token, format, { field, ...slots }, now);
    } catch (error) {
      if (format !== "fernet" || !(error instanceof Refused)) throw error;
      value = ring.open(token, format, { field, ...slots }, now);
    }
    show(value);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  try {
    main();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.error(error instanceof KeyUnknown ? "the ring has no such key" : "it does not open here");
    process.exitCode = 1;
  }
}
