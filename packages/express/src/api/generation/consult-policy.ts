import type { Ticket } from "../../edge/admission.ts";
import { callerError, engineError } from "../../http/errors.ts";
import type { GenerationPlan } from "./plan.ts";

/**
 * Has prompts routed, by the router alone, and the policy say what it makes of that. The engine gets their tokens then,
 * so that nothing is tokenised twice.
 *
 * @throws {ApiError} on prompts that the engine refuses, and where the policy does
 */
export async function consultPolicy(plan: GenerationPlan, ticket: Ticket): Promise<GenerationPlan> {
  if (!ticket.consult) return plan;
  const { engine, prompts, promptParam, expert } = plan;
  const routes = await Promise.all(prompts.map((prompt) => engine.route(prompt, expert))).catch((error: unknown) => {
    throw engineError(callerError(error, promptParam), promptParam, engine.info);
  });
  ticket.correct(routes.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0));
  for (const { experts } of routes) ticket.routed(experts);
  const priority = await ticket.consult(engine.info.experts);
  return { ...plan, priority, prompts: routes.map(({ tokenIds }) => tokenIds) };
}
