export { ReadMeError, type ReadMeErrorCode } from "./errors.ts";
export { choiceOption, describeValue, integerOption, nearestName, rejectUnknownKeys } from "./options.ts";
