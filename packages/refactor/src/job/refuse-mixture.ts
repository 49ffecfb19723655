import { ReadMeError } from "@readme-moe/core";
import { describeMixture, type Model } from "@readme-moe/model";

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when a model is not a dense one */
export function refuseMixture(model: Model): void {
  if (model.kind === "dense") return;
  const advice = "only dense models can be refactored: name one, or serve this model as it is";
  const message = `${model.path}: is already ${describeMixture(model)}; ${advice}`;
  throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
}
