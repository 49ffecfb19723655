import type { ReadMeEmitter } from "@readme-moe/core";
import type { WorkerLink } from "./worker-link.ts";

/** Tells a worker which events somebody listens to, now and whenever that changes. It sends no others. */
export function tellInterest(events: ReadMeEmitter, link: Pick<WorkerLink, "post">): void {
  let told = "";
  const tell = (): void => {
    const names = events.eventNames();
    const key = names.join(" ");
    if (key === told) return;
    told = key;
    link.post({ type: "listen", names });
  };
  events.watchInterest(tell);
  tell();
}
