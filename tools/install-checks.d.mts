/** Hashes what an installation follows, and which packages of the workspace have modules. */
export function installedState(root: string): string;
