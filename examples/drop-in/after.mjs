import { pipeline } from "@readme-moe/adapter/huggingface";

const [model = "models/pocket"] = process.argv.slice(2);
const generate = await pipeline("text-generation", model, { dtype: "fp32" });
const [output] = await generate("The ship was", { max_new_tokens: 24, do_sample: false });
console.log(output.generated_text);
await generate.dispose();
