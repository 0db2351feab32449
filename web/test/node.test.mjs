// The package under Node beside the Python library. `make test-web` writes test/expected.json first.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";

import {
  CheckpointError, ConfigError, EncoderError, InputError, LoadError, Model, UnsupportedError, checkSupport,
} from "../dist/index.js";
import { erf } from "../dist/late_interaction.js";
import { checkLabels, checkRankings, checkVectors } from "./shared.mjs";

const FOLDER = new URL("../../src/polyrank/models/polyrank-small/", import.meta.url);
const expected = JSON.parse(await readFile(process.env.POLYRANK_EXPECTED ?? new URL("expected.json", import.meta.url)));

let model;
before(async () => {
  model = await Model.load(FOLDER);
});
after(() => model.close());

test("the ids of texts are those of Python", () => {
  const { tokenizer } = model.loaded;
  const wrong = expected.texts.filter(
    (text, i) => tokenizer.encode(text).join() !== expected.ids[i].join(),
  );
  assert.ok(expected.texts.length > 30);
  assert.deepEqual(wrong, []);
});

test("clean token rows are those of the portable path, bit for bit", async (t) => {
  assert.match(expected.isa, /portable/);
  const { body, module, rerank } = model.loaded;
  const width = body.spec.hiddenSize;
  const wrong = expected.rows.filter(({ text, sha256 }) => {
    const prompt = model.loaded.spec.prompts.document;
    const { ids, from, to } = model.sequence(prompt + text, model.promptLengths.document);
    const digest = body.run([ids], "tokens", (rows) => {
      const clean = model.matcherOf(rerank).clean(rows + from * width * 4, to - from);
      const bytes = module.bytes(clean.address, clean.count * width * 4).slice();
      module.free(clean.address);
      return createHash("sha256").update(bytes).digest("hex");
    });
    return digest !== sha256;
  });
  t.diagnostic(`${expected.rows.length} texts`);
  assert.deepEqual(wrong.map(({ text }) => text), []);
});

test("ranks are those of Python", async (t) => {
  const { wrong, furthest } = await checkRankings(model, expected.rankings);
  t.diagnostic(`${expected.rankings.length} rankings, logits at most ${furthest.toExponential(2)} off`);
  assert.deepEqual(wrong, []);
});

test("labels are those of Python", async (t) => {
  const { wrong, furthest } = await checkLabels(model, expected.rankings);
  t.diagnostic(`probabilities at most ${furthest.toExponential(2)} off`);
  assert.deepEqual(wrong, []);
});

test("vectors are those of Python", async (t) => {
  const { wrong, furthest } = await checkVectors(model, expected.vectors);
  t.diagnostic(`values at most ${furthest.toExponential(2)} off`);
  assert.deepEqual(wrong, []);
});

test("scores do not depend on what else is ranked", async () => {
  const { query, documents } = expected.rankings[0];
  const together = await model.rank(query, documents);
  for (const hit of together.slice(0, 5)) {
    const [alone] = await model.rank(query, [documents[hit.index]]);
    assert.equal(alone.logit, hit.logit);
  }
});

test("settings do what they say", async () => {
  const { query, documents } = expected.rankings[0];
  const all = await model.rank(query, documents.map((text) => ({ text })));
  assert.equal((await model.rank(query, documents, { topN: 3 })).length, 3);
  const least = all[4].probability;
  assert.equal((await model.rank(query, documents, { minProbability: least })).length, 5);
  assert.deepEqual(await model.rank(query, []), []);
  assert.deepEqual(await model.embed([]), []);
  await assert.rejects(model.rank(query, documents, { topN: 0 }), ConfigError);
  await assert.rejects(model.rank(query, documents, { minProbability: 2 }), ConfigError);
  await assert.rejects(model.embed(["a"], { inputType: "other" }), ConfigError);
  await assert.rejects(model.rank("\ud800", documents), InputError);
  await assert.rejects(model.rank(query, [{ body: "x" }]), InputError);
  await assert.rejects(model.rank(query, "one text"), InputError);
  await assert.rejects(Model.load(FOLDER, { maxLength: 513 }), ConfigError);
});

test("two calls at once do not disturb each other", async () => {
  const [first, second] = expected.rankings;
  const onProgress = () => undefined; // makes calls take turns
  const [a, b] = await Promise.all([
    model.rank(first.query, first.documents, { onProgress }),
    model.rank(second.query, second.documents, { onProgress }),
  ]);
  assert.deepEqual(a.map((hit) => hit.index), first.hits.map((hit) => hit.index));
  assert.deepEqual(b.map((hit) => hit.index), second.hits.map((hit) => hit.index));
});

test("a call can be aborted, and progress ends at the total", async () => {
  const { query, documents } = expected.rankings[0];
  const controller = new AbortController();
  const many = Array.from({ length: 20 }, (_, i) => documents.map((text) => `${text} ${i}`)).flat();
  const call = model.rank(query, many, {
    signal: controller.signal,
    onProgress: () => controller.abort(new Error("enough")),
  });
  await assert.rejects(call, /enough/);
  const seen = [];
  await model.rank(query, documents, { onProgress: (done, total) => seen.push([done, total]) });
  assert.equal(seen.at(-1)[0], seen.at(-1)[1]);
});

test("memory is given back", async () => {
  const { query, documents } = expected.rankings[0];
  await model.rank(query, documents);
  const before = model.info.memoryBytes;
  for (let i = 0; i < 5; ++i) await model.rank(query, documents);
  assert.equal(model.info.memoryBytes, before);
});

test("loading tells how far it is, and can be aborted", async () => {
  const seen = [];
  const other = await Model.load(FOLDER, { onProgress: (progress) => seen.push(progress) });
  assert.ok(seen.every(({ loaded, total }) => loaded <= total));
  assert.equal(seen.at(-1).loaded, seen.at(-1).total);
  assert.ok(seen.at(-1).loaded > 40e6);
  other.close();
  await assert.rejects(other.rank("a", ["b"]), EncoderError);
  const controller = new AbortController();
  const load = Model.load(FOLDER, { signal: controller.signal, onProgress: () => controller.abort() });
  await assert.rejects(load, { name: "AbortError" });
});

test("broken folders are refused with what is wrong", async (t) => {
  const place = await mkdtemp(join(tmpdir(), "polyrank-web-"));
  t.after(() => rm(place, { recursive: true }));
  const broken = async (name, change) => {
    const folder = join(place, name);
    await cp(FOLDER, folder, { recursive: true });
    await change((file) => join(folder, file));
    return pathToFileURL(folder);
  };
  await assert.rejects(Model.load(pathToFileURL(join(place, "none"))), LoadError);
  const cut = await broken("cut", (at) => truncate(at("model.safetensors"), 10_000_000));
  await assert.rejects(Model.load(cut), CheckpointError);
  const noise = await broken("noise", (at) => writeFile(at("model.safetensors"), "<html>404</html>"));
  await assert.rejects(Model.load(noise), CheckpointError);
  const gzip = await broken("gzip", (at) => truncate(at("tokenizer.json.gz"), 100_000));
  await assert.rejects(Model.load(gzip), LoadError);
  const config = await broken("config", (at) => writeFile(at("config.json"), "{}"));
  await assert.rejects(Model.load(config), /model_type/);
});

test("a browser without SIMD is told so", (t) => {
  const { validate } = WebAssembly;
  WebAssembly.validate = () => false;
  t.after(() => {
    WebAssembly.validate = validate;
  });
  assert.throws(checkSupport, UnsupportedError);
});

test("the error function is that of tables", () => {
  const known = [[0, 0], [0.5, 0.5204998778130465], [1, 0.8427007929497149], [2.4, 0.9993114861033549],
    [2.6, 0.9997639655834707], [3, 0.9999779095030014], [-1, -0.8427007929497149], [7, 1]];
  for (const [x, value] of known) assert.ok(Math.abs(erf(x) - value) < 1e-15, `${x}`);
});
