import { expertBytes } from "@readme-moe/core";
import { expertLayout } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";

/** Returns the bytes of all experts of a model, as they are read. */
export async function allExpertBytes(path: string): Promise<number> {
  const model = await openModel(path);
  const layout = expertLayout(model);
  await model.close();
  return layout.numExperts * expertBytes(layout);
}
