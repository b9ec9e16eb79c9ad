// Runs examples/open_token.mjs against a file of vectors, and tells as JSON what came of each.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [decoder, file] = process.argv.slice(2);
const { KeyUnknown, Refused, Ring, openListed } = await import(pathToFileURL(decoder).href);
const vectors = JSON.parse(readFileSync(file, "utf8"));
const kek = Buffer.from(vectors.kek, "hex");
const ring = new Ring(vectors.document, kek, vectors.ring);

function outcome(work) {
  try {
    return { value: work().toString("utf8") };
  } catch (error) {
    if (error instanceof KeyUnknown) return { error: "key_unknown" };
    if (error instanceof Refused) return { error: "refused" };
    throw error;
  }
}

const opened = ({ token, format, ...slots }) => outcome(() => ring.open(token, format, slots, vectors.now));
const listed = (token) => outcome(() => openListed(vectors.listed.keys, token));

const results = {
  tokens: vectors.tokens.map(opened),
  refused: vectors.refused.map(opened),
  listed: vectors.listed.tokens.map(({ token }) => listed(token)),
  listed_refused: vectors.listed.refused.map(listed),
  documents: vectors.refused_documents.map(({ document }) =>
    outcome(() => Buffer.from(new Ring(document, kek, vectors.ring).name)),
  ),
};
console.log(JSON.stringify(results));
