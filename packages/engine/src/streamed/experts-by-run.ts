import { attentionRuns } from "@readme-moe/model";
import type { ArenaSequence } from "../step-feeds.ts";

/** The distinct experts, ascending, of each run that a step takes. */
export function expertsByRun(sequences: readonly ArenaSequence[]): readonly (readonly number[])[] {
  return attentionRuns(sequences).map(({ decode, decodeOther, continued, fresh }) => {
    const places = [...decode, ...decodeOther, ...continued, ...fresh];
    const experts = new Set(places.flatMap((place) => Array.from(sequences[place]?.experts ?? [])));
    return Array.from(experts).sort((a, b) => a - b);
  });
}
