import { $, api, el, plural, told } from "./app.js";

told(async () => {
  const { images, fault } = await api("/api/data");
  $("#summary").textContent = fault ?? plural(images, "image");
  const found = await api("/api/data/images");
  for (const { id, name } of found.images)
    $("#grid").append(el("li", {}, el("img", { src: `/api/images/${id}/thumbnail?labels=1`, alt: name, loading: "lazy" })));
})();
