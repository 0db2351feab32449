// Vectors or logits by Transformers.js: node embed.mjs FOLDERS NAME TASK DTYPE < texts.json
import { readFileSync } from 'node:fs'
import { AutoModelForSequenceClassification, AutoTokenizer, env, pipeline } from '@huggingface/transformers'

const [folders, name, task, dtype] = process.argv.slice(2)
const texts = JSON.parse(readFileSync(0, 'utf8'))
env.allowRemoteModels = false
env.localModelPath = folders
if (task === 'embed') {
  const embed = await pipeline('feature-extraction', name, { dtype })
  const found = await embed(texts, { pooling: 'mean', normalize: true })
  console.log(JSON.stringify(found.tolist()))
} else {
  const tokenizer = await AutoTokenizer.from_pretrained(name)
  const model = await AutoModelForSequenceClassification.from_pretrained(name, { dtype })
  const inputs = tokenizer(texts.map(pair => pair[0]), {
    text_pair: texts.map(pair => pair[1]), padding: true, truncation: true,
  })
  const { logits } = await model(inputs)
  console.log(JSON.stringify(logits.tolist()))
}
