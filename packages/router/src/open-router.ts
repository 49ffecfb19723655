import { expertIndex, ReadMeError, type PreGatingRouter } from "@readme-moe/core";
import type { Model } from "@readme-moe/model";
import { KernelRouter, type RouterOptions } from "./kernel-router.ts";
import { fixedRouter } from "./simple-routers.ts";

/** Who chooses experts: the model's own router, or one expert for every token, by name or index. */
export type ExpertChoice = "router" | (string & {}) | number;

/**
 * @param choice - @default the router where the model has one; the only expert where it has one
 * @throws {RangeError} when there is no such expert; names those that there are
 * @throws {ReadMeError} `ERR_MODEL_INVALID` when the router is asked for, or needed, and the model has none
 */
export async function openRouter(
  model: Model,
  choice?: ExpertChoice,
  options: RouterOptions = {},
): Promise<PreGatingRouter> {
  const { names } = model.experts;
  if (choice !== undefined && choice !== "router") return fixedRouter(names.length, expertIndex(names, choice));
  if (model.router) return KernelRouter.open(model, options);
  if (choice === undefined && names.length === 1) return fixedRouter(1, 0);
  const message = `${model.path}: has no router; choose one of its experts (${names.join(", ")})`;
  throw new ReadMeError("ERR_MODEL_INVALID", message);
}
