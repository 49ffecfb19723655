export { ReadMeError, type ReadMeErrorCode } from "./errors.ts";
export { choiceOption, describeValue, integerOption, nearestName, rejectUnknownKeys } from "./options.ts";
export type { PreGatingRouter, Route, RouteInput, RouterState } from "./routing.ts";
