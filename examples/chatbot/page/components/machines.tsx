// The machines of a fleet: what each runs, and what waits.

import type { JSX } from "preact";
import type { LiveFleet } from "../../shared/live.ts";

export function Machines({ fleet }: { readonly fleet: LiveFleet }): JSX.Element {
  const { machines, queues } = fleet;
  const hasExperts = machines.some(({ experts }) => experts !== undefined);
  const hasVersions = new Set(machines.map(({ version }) => version)).size > 1;
  const waiting = queues.filter((queue) => queue.waiting > 0);
  return (
    <section class="machines" aria-label="Machines">
      <h3>
        Machines <span class="small">{machines.length}</span>
      </h3>
      {machines.length === 0 ? (
        <p class="small">No worker of the fleet runs this model.</p>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">worker</th>
              {hasVersions && <th scope="col">model</th>}
              <th scope="col">running</th>
              <th scope="col">free</th>
              <th scope="col">ms/step</th>
              {hasExperts && <th scope="col">experts</th>}
            </tr>
          </thead>
          <tbody>
            {machines.map(({ id, version, running, free, stepMs, experts, isDraining }) => (
              <tr key={id} class={isDraining ? "draining" : ""}>
                <th scope="row" title={isDraining ? `${id} is draining` : id}>
                  {id}
                </th>
                {hasVersions && <td>{version}</td>}
                <td>{running}</td>
                <td>{isDraining ? "draining" : free}</td>
                <td>{stepMs.toFixed(1)}</td>
                {hasExperts && <td>{experts ? `${experts.inMemory} of ${experts.all}` : "all"}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <p class="small">
        {waiting.length === 0
          ? "No request waits."
          : `Waiting: ${waiting.map((queue) => `${queue.waiting} in ${queue.key}`).join(", ")}`}
      </p>
    </section>
  );
}
