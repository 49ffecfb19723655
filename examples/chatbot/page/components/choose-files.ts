/** Lets the user choose files. @param accept - extensions or types; "" for all */
export function chooseFiles(accept: string, onChosen: (files: readonly File[]) => void): void {
  const field = document.createElement("input");
  field.type = "file";
  field.accept = accept;
  field.multiple = accept === "";
  field.addEventListener("change", () => onChosen([...(field.files ?? [])]));
  field.click();
}
