import { GraphSession, memoryGraph, type Graph, type SessionOptions } from "@readme-moe/model";

/** One session for each graph; they have no weights of their own, so nothing is cached. */
export async function openUnitSessions(
  graphs: readonly Graph[],
  options: SessionOptions,
): Promise<readonly GraphSession[]> {
  const sessions: GraphSession[] = [];
  try {
    for (const graph of graphs) sessions.push(await GraphSession.load(await memoryGraph(graph), options));
    return sessions;
  } catch (error) {
    for (const session of sessions) await session.dispose();
    throw error;
  }
}
