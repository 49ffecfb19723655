export { EXPERTS_FROM, METHODS, type Method, type RefactorOptions } from "./options.ts";
export { refactor, type RefactorRun } from "./refactor.ts";
export type { RefactorProgress } from "./job/stages.ts";
export type { DomainText } from "./data/prepare-domain.ts";
export type { Report } from "./report/report.ts";
