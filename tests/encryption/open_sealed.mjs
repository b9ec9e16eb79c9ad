// Opens tokens with a private key by examples/open_token.mjs, and tells as JSON what came of each.

import { createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { Refused, openSealed } = await import(pathToFileURL(process.argv[2]).href);
const { key, ring, field, tokens } = JSON.parse(readFileSync(0, "utf8"));
const privateKey = createPrivateKey(key);

const outcomes = tokens.map((token) => {
  try {
    return openSealed(privateKey, token, ring, { field }).toString("utf8");
  } catch (error) {
    if (error instanceof Refused) return null;
    return `${error}`;
  }
});
console.log(JSON.stringify(outcomes));
