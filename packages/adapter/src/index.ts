export { type AutoClasses, createAutoClasses } from "./auto-classes.ts";
export { generationOf, type Generation, type HostLike } from "./host.ts";
export { readMeModel, type ReadMeModel } from "./model-class.ts";
export type { AdapterOptions } from "./options.ts";
export { createPipeline, type ReadMePipeline } from "./pipeline.ts";
export { register } from "./register.ts";
