export { generationOf, type Generation, type HostLike } from "./host.ts";
export { type AutoClasses, createAutoClasses, createPipeline, type ReadMePipeline } from "./loaders.ts";
export { readMeModel, type ReadMeModel } from "./model-class.ts";
export type { AdapterOptions } from "./options.ts";
export { register } from "./register.ts";
