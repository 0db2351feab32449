// What both tests check: the same under Node and in a browser.

/** Logits come of sums in double precision here, of single ones in Python. */
export const LOGIT_TOLERANCE = 2e-5;
export const PROBABILITY_TOLERANCE = 1e-5;
export const VECTOR_TOLERANCE = 1e-6;

const off = (a, b) => Math.abs(a - b);

/** Returns what differs between a model's rankings and those of Python, as sentences. */
export async function checkRankings(model, rankings) {
  const wrong = [];
  let furthest = 0;
  for (const { query, documents, hits } of rankings) {
    const found = await model.rank(query, documents);
    found.forEach((hit, rank) => {
      const told = hits[rank];
      furthest = Math.max(furthest, off(hit.logit, told.logit));
      if (hit.index !== told.index) wrong.push(`${query}: place ${rank} is ${hit.index}, not ${told.index}`);
      if (off(hit.probability, told.probability) > PROBABILITY_TOLERANCE) wrong.push(`${query}: probability`);
      if (hit.isTruncated !== told.isTruncated) wrong.push(`${query}: isTruncated`);
      if (hit.document !== documents[hit.index]) wrong.push(`${query}: another document`);
    });
    if (found.length !== hits.length) wrong.push(`${query}: ${found.length} results`);
  }
  if (furthest > LOGIT_TOLERANCE) wrong.push(`a logit is ${furthest} off`);
  return { wrong, furthest };
}

/** The same of labels. */
export async function checkLabels(model, rankings) {
  const wrong = [];
  let furthest = 0;
  for (const { query, documents, labels } of rankings) {
    const found = await model.classify(query, documents);
    found.forEach((each, i) => {
      if (each.label !== labels[i].label) wrong.push(`${query}: ${i} is ${each.label}, not ${labels[i].label}`);
      for (const [label, value] of Object.entries(labels[i].probabilities)) {
        furthest = Math.max(furthest, off(each.probabilities[label], value));
      }
      for (const [label, value] of Object.entries(labels[i].calibrated)) {
        furthest = Math.max(furthest, off(each.calibratedProbabilities[label], value));
      }
    });
  }
  if (furthest > PROBABILITY_TOLERANCE) wrong.push(`a probability is ${furthest} off`);
  return { wrong, furthest };
}

/** The same of vectors. */
export async function checkVectors(model, vectors) {
  const found = await model.embed(vectors.map(({ text }) => text), { inputType: "query" });
  let furthest = 0;
  found.forEach((vector, i) => {
    vector.forEach((value, j) => {
      furthest = Math.max(furthest, off(value, vectors[i].vector[j]));
    });
  });
  return { wrong: furthest > VECTOR_TOLERANCE ? [`a value is ${furthest} off`] : [], furthest };
}
