// Checkpoints that the paper's own code wrote: experts under `model.layers.{l}.moe.*`, one file for all.

import type { Fields } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { MOST } from "../config/bounds.ts";
import type { TensorStore } from "../tensor-store.ts";
import { feedForwardRefs, locateWeights } from "./backbone.ts";
import type { ExpertLayout, ModelWeights } from "./model-weights.ts";
import { locateRouter, parseOfficialRouterConfig, type RouterWeights } from "./router-weights.ts";

/** The seven RedPajama domains, in the order of the paper's code. */
const PAPER_DOMAINS = ["arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia"] as const;

/** Tells whether a checkpoint was converted by the paper's code. */
export function isOfficialConversion(store: TensorStore): boolean {
  return store.has("model.layers.0.moe.gate_proj_0.weight");
}

/**
 * Finds the tensors of an official conversion. The experts' widths are those of the tensors: the conversion keeps one
 * row fewer than the config says. Residual rows that the checkpoint has as separate tensors become the shared rows.
 */
export function locateOfficial(
  store: TensorStore,
  config: ModelConfig,
  fields: Fields,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights; readonly router: RouterWeights | undefined } {
  const numExperts = fields.size("N_cluster", MOST.routedExperts);
  const { hiddenSize } = config;
  const rows = (layer: number, which: string): number =>
    store.info(`model.layers.${layer}.moe.gate_proj_${which}.weight`).shape[0] ?? 0;
  const layers = Array.from({ length: config.numLayers }, (_, layer) => layer);
  const expertSizes = layers.map((layer) => rows(layer, "0"));
  const sharedSizes = layers.map((layer) =>
    store.has(`model.layers.${layer}.moe.gate_proj_residual.weight`) ? rows(layer, "residual") : 0,
  );
  const hasRouter = store.has("cluster_predictor.embed.weight");
  return {
    experts: {
      names: numExperts === PAPER_DOMAINS.length ? PAPER_DOMAINS : Array.from({ length: numExperts }, (_, e) => `${e}`),
      expertSizes,
      sharedSizes,
    },
    weights: locateWeights(store, config, (layer) => {
      const part = (which: string, size: number) =>
        feedForwardRefs(
          store,
          { prefix: `model.layers.${layer}.moe.`, suffix: `_${which}` },
          { size, hiddenSize, hasBias: "if present" },
        );
      const sharedSize = sharedSizes[layer] ?? 0;
      return {
        shared: sharedSize > 0 ? part("residual", sharedSize) : undefined,
        experts: Array.from({ length: numExperts }, (_, expert) => part(`${expert}`, expertSizes[layer] ?? 0)),
      };
    }),
    router: hasRouter
      ? locateRouter(store, "cluster_predictor.", parseOfficialRouterConfig(fields, config, numExperts))
      : undefined,
  };
}
